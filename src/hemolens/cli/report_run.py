"""What a test tells its reader: a table on the terminal and in the run folder, and a model card beside the weights."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hemolens.analysis.classification_report import classification_markdown, classification_table
from hemolens.analysis.detection_report import detection_markdown, detection_results, detection_table
from hemolens.analysis.generation_report import generation_markdown, generation_results, generation_table
from hemolens.analysis.model_card import write_model_card
from hemolens.analysis.segmentation_report import segmentation_markdown, segmentation_results, segmentation_table
from hemolens.analysis.ssl_report import ssl_markdown, ssl_results, ssl_table
from hemolens.cli.run_guard import git_state
from hemolens.inference.load import AUTOCAST
from hemolens.inference.timing import COUNT, time_segmentation
from hemolens.io.atomic import atomic_path, write_json
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask


class Words(NamedTuple):
    """How the result of a kind of task is told."""

    task: str
    table: Callable[[Any, Sequence[str]], str]
    markdown: Callable[[Any, Sequence[str]], str]
    plain: Callable[[Any, Sequence[str]], dict[str, Any]] | None


WORDS = {
    DetectionTask: Words("detection of blood cells", detection_table, detection_markdown, detection_results),
    ClassificationTask: Words("classification of blood cells", classification_table, classification_markdown, None),
    SegmentationTask: Words(
        "segmentation of red cells by type", segmentation_table, segmentation_markdown, segmentation_results
    ),
    MoCoReconstructionTask: Words("pretraining on cells without labels", ssl_table, ssl_markdown, ssl_results),
    PhaseDDGANTask: Words("generation of phase images", generation_table, generation_markdown, generation_results),
}


def report_test(
    task: Any,
    datamodule: Any,
    run_dir: Path,
    config: dict[str, Any],
    metrics: dict[str, float],
    *,
    checkpoint: Path | None,
    device: str = "",
    precision: str = "32-true",
    timed: bool = True,
) -> None:
    """Print the table of a test, write ``test.md`` and ``test.json`` (of classifiers only the former), and a
    checkpoint's model card. With ``timed`` a segmentation's inference is timed."""
    results, names = task.test_results, task.class_names
    words = next(words for kind, words in WORDS.items() if isinstance(task, kind))
    tested = f"Tested on {datamodule.describe('test')}"
    print(f"\n{tested}\n\n{words.table(results, names)}", flush=True)
    print(f"\nFigures: {run_dir / 'figures'}\nRun folder: {run_dir}", flush=True)
    markdown = words.markdown(results, names)
    with atomic_path(run_dir / "test.md", overwrite=True) as temporary:
        temporary.write_text(f"{tested}\n\n{markdown}\n")
    if words.plain is not None:
        splits = ("train", "val", "test") if checkpoint else ("test",)
        content = {
            "tested": tested,
            "task_name": config["task_name"],
            "seed": config["seed"],
            "backbone": _backbone(config["net"]),
            "network": _network(config["net"]),
            "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
            "macs": metrics.get("macs"),
            "data": type(datamodule).__name__,
            "class_counts": {split: datamodule.class_counts(split) for split in splits},
            **words.plain(results, names),
        }
        if timed and isinstance(task, SegmentationTask):
            content["inference"] = _timed(task, datamodule, precision)
        write_json(run_dir / "test.json", content, overwrite=True)
    if checkpoint is None:
        return
    git = git_state()
    write_model_card(
        checkpoint.parent / "MODEL_CARD.md",
        task=words.task,
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


def _timed(task: SegmentationTask, datamodule: Any, precision: str) -> dict[str, Any]:
    """Times of inference, on the first test images, where the tests ran."""
    samples = datamodule.fields("test")
    images = [samples[index]["image"] for index in range(min(COUNT, len(samples)))]
    return time_segmentation(task.eval(), images, dtype=AUTOCAST.get(precision))


def _network(net: dict[str, Any]) -> str:
    backbone = _backbone(net)
    return net["_target_"].rpartition(".")[2] + (f" on {backbone}" if backbone else "")


def _backbone(net: dict[str, Any]) -> str:
    """Name of the backbone; empty for networks without one."""
    if "backbone" in net:
        return str(net["backbone"]["name"])
    return str(net.get("encoder") or net.get("name") or "")
