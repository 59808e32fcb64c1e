"""What a test tells its reader: a table on the terminal and in the run folder, and a model card beside the weights."""

import time
from pathlib import Path
from typing import Any

from hemolens.analysis.classification_report import classification_markdown, classification_table
from hemolens.analysis.detection_report import detection_markdown, detection_results, detection_table
from hemolens.analysis.model_card import write_model_card
from hemolens.cli.run_guard import git_state
from hemolens.io.atomic import atomic_path, write_json
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.detection import DetectionTask


def report_test(
    task: DetectionTask | ClassificationTask,
    datamodule: Any,
    run_dir: Path,
    config: dict[str, Any],
    metrics: dict[str, float],
    *,
    checkpoint: Path | None,
    device: str = "",
) -> None:
    """Print the table of a test, write ``test.md`` (and a detector's ``test.json``), and a checkpoint's model card."""
    results, names = task.test_results, task.class_names
    tested = f"Tested on {datamodule.describe('test')}"
    detects = isinstance(task, DetectionTask)
    table = detection_table(results, names) if detects else classification_table(results, names)
    print(f"\n{tested}\n\n{table}", flush=True)
    print(f"\nFigures: {run_dir / 'figures'}\nRun folder: {run_dir}", flush=True)
    markdown = detection_markdown(results, names) if detects else classification_markdown(results, names)
    with atomic_path(run_dir / "test.md", overwrite=True) as temporary:
        temporary.write_text(f"{tested}\n\n{markdown}\n")
    if detects:
        splits = ("train", "val", "test") if checkpoint else ("test",)
        content = {
            "tested": tested,
            "task_name": config["task_name"],
            "seed": config["seed"],
            "backbone": config["net"]["backbone"]["name"],
            "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
            "data": type(datamodule).__name__,
            "class_counts": {split: datamodule.class_counts(split) for split in splits},
            **detection_results(results, names),
        }
        write_json(run_dir / "test.json", content, overwrite=True)
    if checkpoint is None:
        return
    git = git_state()
    write_model_card(
        checkpoint.parent / "MODEL_CARD.md",
        task="detection of blood cells" if detects else "classification of blood cells",
        net={
            "network": _network(config["net"]),
            "parameters": f"{int(metrics['parameters']):,}",
            "multiply-accumulates": f"{metrics['macs'] / 1e9:.2f} G an image",
            "input": datamodule.input_spec(),
        },
        class_names=names,
        data={split: datamodule.describe(split) for split in ("train", "val", "test")},
        results=markdown,
        checkpoint=checkpoint.name,
        limits=datamodule.limits,
        run={
            "commit": f"{git['commit']}{' with uncommitted changes' if git['dirty'] else ''}",
            "seed": config["seed"],
            "device": device,
            "date": time.strftime("%Y-%m-%d"),
        },
        overwrite=True,
    )


def _network(net: dict[str, Any]) -> str:
    kind = net["_target_"].rpartition(".")[2]
    return f"{kind} on {net['backbone']['name']}" if "backbone" in net else f"{kind}, {net['name']}"
