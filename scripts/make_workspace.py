"""W&B dashboards as code: a workspace and a report for each family of tasks.

    python scripts/make_workspace.py --dry-run [--family detection] [--output dashboards.json]
    python scripts/make_workspace.py --entity my-team [--project hemolens] [--family detection]

The first writes what would be saved, as JSON, and needs no account; the second saves it (`wandb login` once) and prints
the addresses. Each workspace shows the runs that carry the family's tag, grouped as the sweeps are. A new view is made
each time; delete the old one in the browser. Needs wandb-workspaces: pip install 'hemolens[dashboards]'.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.gan_segmentation import GANSegmentationTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask

STEP = "trainer/global_step"
SPEED = ("train/lr", "train/images_per_second")
PICTURES = ("val/pictures", "test/pictures")
PICTURE_TABLE = "test/picture_table"


@dataclass(frozen=True)
class Family:
    """What a dashboard of one family shows beside what its tasks declare."""

    tasks: tuple[Any, ...]
    best: tuple[str, ...]
    """Validation scores by which runs are chosen; sweeps are judged by the first."""
    test: tuple[str, ...]
    figures: tuple[str, ...]
    tables: tuple[str, ...] = ()

    def curves(self, start: str) -> list[str]:
        """Names that the tasks log, ``*`` for many, that begin with ``start``."""
        return list(dict.fromkeys(name for task in self.tasks for name in task.metrics if name.startswith(start)))


SEGMENTATION_FIGURES = ("test/segmentations_figure", "test/type_scores_figure", "test/types_figure")
FAMILIES = {
    "detection": Family(
        (DetectionTask,),
        ("val/map",),
        ("test/map", "test/map_frequent", "test/accuracy", "test/weighted_f1", "test/n_missed", "test/n_spurious"),
        ("test/overlays_figure", "test/precision_recall_figure", "test/confusion_figure"),
        ("test/precision_recall_table", "test/confusion_table"),
    ),
    "classification": Family(
        (ClassificationTask,),
        ("val/f1_macro",),
        ("test/f1_macro", "test/accuracy"),
        ("test/cells_figure", "test/class_scores_figure", "test/confusion_figure"),
        ("test/f1_bars_table", "test/confusion_table"),
    ),
    "segmentation": Family(
        (SegmentationTask, GANSegmentationTask),
        ("val/dice", "val/aji"),
        ("test/dice", "test/aji", "test/mixed_type_rate", "test/spurious"),
        SEGMENTATION_FIGURES,
        ("test/dice_bars_table", "test/confusion_table"),
    ),
    "diffusion": Family(
        (PhaseDDGANTask, MaskDDGANTask),
        ("val/over_floor", "val/dice"),
        ("test/over_floor", "test/dice", "test/aji"),
        ("test/samples_figure", "test/floors_figure", *SEGMENTATION_FIGURES),
        ("test/distances", "test/confusion_table"),
    ),
    "ssl": Family(
        (MoCoReconstructionTask,),
        ("val/knn", "val/reconstruction"),
        ("test/knn", "test/reconstruction", "test/feature_sd"),
        ("test/reconstructions_figure",),
    ),
}


def sections(family: Family) -> dict[str, list[dict[str, Any]]]:
    """The panels of a family by section, as plain data: ``kind`` and what it shows."""
    summaries = {name: best for task in family.tasks for name, best in task.metrics.items()}
    scores = [name for name in family.curves("val/") if name != "val/loss"]
    losses = [name for name in family.curves("train/")] + [name for name in ("val/loss",) if name in summaries]
    judged = f"{family.best[0]}.{summaries[family.best[0]]}"
    columns = ["config:optimizer.lr", "config:data.batch_size", "config:seed", f"summary:{judged}"]
    return {
        "Scores": [
            *({"kind": "line", "metrics": [name]} for name in scores),
            *({"kind": "bar", "metrics": [name]} for name in family.test),
        ],
        "Losses": [{"kind": "line", "metrics": [name]} for name in losses],
        "Learning rate and throughput": [{"kind": "line", "metrics": [name]} for name in SPEED],
        "Pictures": [
            *({"kind": "media", "metrics": [name]} for name in PICTURES),
            {"kind": "table", "metrics": [PICTURE_TABLE]},
        ],
        "Curves and matrices": [
            *({"kind": "media", "metrics": [name]} for name in family.figures),
            *({"kind": "table", "metrics": [name]} for name in family.tables),
        ],
        "Sweeps": [
            {"kind": "importance", "metrics": [judged]},
            {"kind": "parallel", "columns": columns},
            {"kind": "comparer"},
        ],
    }


def panel(spec: dict[str, Any], wr: Any) -> Any:
    """A panel of wandb-workspaces from its plain description."""
    names = spec.get("metrics", [])
    by_sweep = {"groupby": "Group", "groupby_rangefunc": "minmax"}
    match spec["kind"]:
        case "line" if "*" in names[0]:
            pattern = names[0].replace("*", ".*")
            return wr.LinePlot(title=names[0], x=STEP, metric_regex=pattern, **by_sweep)
        case "line":
            return wr.LinePlot(title=names[0], x=STEP, y=names, **by_sweep)
        case "bar":
            return wr.BarPlot(title=names[0], metrics=names, **by_sweep)
        case "media":
            return wr.MediaBrowser(title=names[0], media_keys=names, num_columns=4)
        case "table":
            return wr.WeavePanelSummaryTable(table_name=names[0])
        case "importance":
            return wr.ParameterImportancePlot(with_respect_to=names[0])
        case "parallel":
            made = {"config": wr.Config, "summary": wr.SummaryMetric}
            parts = [column.split(":", 1) for column in spec["columns"]]
            return wr.ParallelCoordinatesPlot(
                columns=[wr.ParallelCoordinatesPlotColumn(metric=made[kind](name)) for kind, name in parts]
            )
        case _:
            return wr.RunComparer(diff_only="split")


def workspace(name: str, entity: str, project: str) -> Any:
    """The workspace of a family: its runs, grouped, and its sections."""
    wr, ws = _library()
    family = FAMILIES[name]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"hemolens {name}",
        sections=[
            ws.Section(name=title, panels=[panel(spec, wr) for spec in specs], is_open=number < 2)
            for number, (title, specs) in enumerate(sections(family).items())
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(
            filters=_only(name),
            groupby=[ws.Metric("Group")],
            pinned_columns=[f"summary:{score}" for score in family.test],
        ),
    )


def report(name: str, entity: str, project: str) -> Any:
    """The report of a family: the same panels, to write beside and to send."""
    wr, _ = _library()
    blocks: list[Any] = [wr.P("One line or bar a sweep, its band from the least to the greatest of its runs (seeds).")]
    for title, specs in sections(FAMILIES[name]).items():
        runs = wr.Runset(project=project, name=name, filters=_only(name), groupby=["Group"])
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=[panel(spec, wr) for spec in specs])]
    return wr.Report(entity=entity, project=project, title=f"hemolens {name}", blocks=blocks, width="fluid")


def _only(name: str) -> str:
    return f"Tags in ['{name}']"


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'hemolens[dashboards]'") from error
    return wr, ws


def dry_run(names: list[str], entity: str, project: str) -> dict[str, Any]:
    """What would be saved, by family: the plain ``sections``, and ``workspace`` and ``report`` as W&B takes them."""
    return {
        name: {
            "sections": sections(FAMILIES[name]),
            "workspace": workspace(name, entity, project)._to_model().model_dump(by_alias=True, mode="json"),
            "report": report(name, entity, project)._to_model().model_dump(by_alias=True, mode="json"),
        }
        for name in names
    }


def save(names: list[str], entity: str | None, project: str) -> None:
    """Save all to W&B and print where they are.

    Raises:
        UserError: not logged in, or W&B refused.
    """
    import wandb

    if not wandb.login(prompt=False):
        raise UserError("not logged in to W&B: run `wandb login`, or add --dry-run to see what would be saved")
    try:
        entity = entity or str(wandb.Api().default_entity)
        for name in names:
            print(f"{name}: {workspace(name, entity, project).save().url}")
            print(f"{name}: {report(name, entity, project).save().url}")
    except (wandb.Error, ValueError) as error:
        raise UserError(f"W&B has not taken it: {error}; is {entity}/{project} right?", exit_code=1) from error


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="one of them; again for more [all]")
    parser.add_argument("--entity", help="your W&B user or team [the account's default]")
    parser.add_argument("--project", default="hemolens")
    parser.add_argument("--dry-run", action="store_true", help="write the JSON, save nothing")
    parser.add_argument("--output", type=Path, help="file of the dry run [the terminal]")
    given = parser.parse_args(words)
    names = given.family or list(FAMILIES)
    try:
        if not given.dry_run:
            save(names, given.entity, given.project)
            return 0
        content = dry_run(names, given.entity or "", given.project)
        if given.output is None:
            json.dump(content, sys.stdout, indent=1)
        else:
            write_json(given.output, content)
    except UserError as error:
        print(f"make_workspace: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
