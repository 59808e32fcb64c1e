"""Pictures of a network at work: the same pictures in every run, and the test's curves and matrices."""

from pathlib import Path
from typing import Any, Protocol

import lightning as L
from matplotlib.figure import Figure

from hemolens.analysis.figures import save_figure
from hemolens.callbacks.classification_figures import ClassificationPanel
from hemolens.callbacks.detection_figures import DetectionPanel
from hemolens.callbacks.generation_figures import GenerationPanel
from hemolens.callbacks.segmentation_figures import SegmentationPanel
from hemolens.callbacks.ssl_figures import ReconstructionPanel
from hemolens.callbacks.wandb_run import wandb_runs
from hemolens.callbacks.wandb_tables import picture_table
from hemolens.errors import UserError
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask


class Panel(Protocol):
    """What is drawn of one kind of task."""

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep what is worth drawing of a batch and of what the task's step returned."""

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """What was collected as W&B images."""

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """What was collected as rows of a table: ``id``, ``picture`` and whatever says how well it went."""

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """Figures of a test by name, from the task's ``test_results`` and what was collected."""

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """Tables and plots of a test that W&B can redraw."""

    def clear(self) -> None:
        """Forget what was collected."""


class Figures(L.Callback):
    """Collect pictures of the validation and test sets and draw what the network said of them.

    Files go to ``<run_dir>/figures``; with a W&B logger the same pictures are logged as ``val/pictures`` and
    ``test/pictures`` (boxes and masks can be switched on and off), the test's with their ids and scores as
    ``test/picture_table``, and its curves as charts.

    Args:
        run_dir: the run folder.
        num_images: fields drawn, the first ones of the set; of single cells four times as many.
        score_threshold: detections below it are not drawn.
    """

    def __init__(self, run_dir: str, num_images: int = 8, score_threshold: float = 0.3) -> None:
        self.folder = Path(run_dir) / "figures"
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.panel: Panel

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose what to draw by the task."""
        if isinstance(pl_module, DetectionTask):
            self.panel = DetectionPanel(self.num_images, self.score_threshold)
        elif isinstance(pl_module, ClassificationTask):
            self.panel = ClassificationPanel(4 * self.num_images)
        elif isinstance(pl_module, SegmentationTask):
            self.panel = SegmentationPanel(self.num_images, self.folder)
        elif isinstance(pl_module, PhaseDDGANTask):
            self.panel = GenerationPanel(4 * self.num_images)
        elif isinstance(pl_module, MoCoReconstructionTask):
            self.panel = ReconstructionPanel(4 * self.num_images)
        else:
            raise UserError(f"there are no figures of a {type(pl_module).__name__}: set callbacks.figures=null")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first pictures."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.panel.collect(outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Log the pictures of this epoch to W&B; on disk those of the test are enough."""
        self._log_images(trainer, "val/pictures", pl_module.class_names)
        self.panel.clear()

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draw and log what the test found."""
        if not trainer.is_global_zero:
            return
        results, names = pl_module.test_results, pl_module.class_names
        figures = self.panel.figures(results, names)
        for name, figure in figures.items():
            save_figure(figure, self.folder / f"test_{name}.png", overwrite=True)
        self._log_images(trainer, "test/pictures", names)
        for run in wandb_runs(trainer.loggers):
            import wandb

            drawn = {f"test/{name}_figure": wandb.Image(figure) for name, figure in figures.items()}
            charts = {f"test/{name}": chart for name, chart in self.panel.charts(results, names).items()}
            rows = picture_table(self.panel.rows(names))
            run.log(charts | drawn | ({} if rows is None else {"test/picture_table": rows}))
        self.panel.clear()

    def _log_images(self, trainer: L.Trainer, key: str, class_names: tuple[str, ...]) -> None:
        for run in wandb_runs(trainer.loggers):
            if images := self.panel.images(class_names):
                run.log({key: images})
