"""Pictures of a segmentation at work: phase, truth and prediction of the same images in every run, scores by type."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hemolens.analysis.figures import plot_confusion
from hemolens.analysis.segmentation_figures import SegmentedImage, grey_levels, plot_segmentations, plot_type_scores
from hemolens.callbacks.wandb_tables import confusion_table
from hemolens.io.atomic import atomic_path

MAPS = "test_maps.npz"  # what a report draws beside the maps of other runs
MAX_MAPS = 4


class SegmentationPanel:
    """Masks over phase images, scores by type and the types of cells; see :class:`hemolens.callbacks.figures.Panel`.

    Args:
        num_images: images drawn, the first ones of the set.
        folder: of the figures, where the maps of a test are kept for reports.
    """

    def __init__(self, num_images: int, folder: Path) -> None:
        self.num_images, self.folder = num_images, folder
        self.pictures: list[SegmentedImage] = []

    def collect(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        for index, name in enumerate(batch["image_ids"]):
            if len(self.pictures) >= self.num_images:
                return
            phase = batch["images"][index, 0].float().cpu().numpy()
            truth, found = (
                maps[index].cpu().numpy().astype(np.uint8) for maps in (batch["classes"], outputs["classes"])
            )
            self.pictures.append(SegmentedImage(name, phase, truth, {"prediction": found}))

    def images(self, class_names: tuple[str, ...]) -> list[Any]:
        """The phase images with masks of truth and prediction, which W&B can switch on and off."""
        return [_wandb_image(picture, dict(enumerate(class_names))) for picture in self.pictures]

    def rows(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The images with the share of right pixels among those that are a cell, or were said to be."""
        return [
            {"id": picture.name, "picture": image, "right_pixels": _right_share(picture)}
            for picture, image in zip(self.pictures, self.images(class_names), strict=True)
        ]

    def figures(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Figure]:
        """Phase, truth and prediction, scores by type, and the types of cells; keeps the first maps for reports."""
        kept = self.pictures[:MAX_MAPS]
        maps: dict[str, Any] = {"names": np.array([picture.name for picture in kept])}
        for number, picture in enumerate(kept):
            maps |= {f"phase_{number}": picture.phase.astype(np.float16), f"truth_{number}": picture.truth}
            maps[f"prediction_{number}"] = picture.predictions["prediction"]
        with atomic_path(self.folder / MAPS, overwrite=True) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **maps)
        scores = {name: results[key] for name, key in (("Dice", "dice_skip"), ("AJI", "aji_skip"))}
        figures = {
            "type_scores": plot_type_scores(scores, class_names),
            "types": plot_confusion(with_missed(results), class_names[1:]),
        }
        if self.pictures:
            figures["segmentations"] = plot_segmentations(self.pictures, class_names)
        return figures

    def charts(self, results: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
        """Dice of each type as bars, and the types of cells as a table."""
        import wandb

        table = wandb.Table(columns=["type", "dice", "aji"])
        rows = zip(class_names[1:], results["dice_skip"].tolist(), results["aji_skip"].tolist(), strict=True)
        for name, dice, aji in rows:
            table.add_data(name, dice, aji)
        return {
            "dice_bars": wandb.plot.bar(table, "type", "dice"),
            "confusion_table": confusion_table(with_missed(results), [*class_names[1:], "background"]),
        }

    def clear(self) -> None:
        """Forget the images."""
        self.pictures = []


def with_missed(results: dict[str, Any]) -> np.ndarray:
    """True cells by type and prediction, missed ones in the last column, spurious ones in the last row, [K, K]."""
    types = np.asarray(results["types"].cpu(), np.int64)
    counts = np.zeros((types.shape[1], types.shape[1]), np.int64)
    counts[:-1, :-1], counts[:-1, -1] = types[:, 1:], types[:, 0]
    counts[-1, :-1] = np.asarray(results["spurious_types"].cpu(), np.int64)
    return counts


def _right_share(picture: SegmentedImage) -> float | None:
    if picture.truth is None:
        return None
    found = picture.predictions["prediction"]
    cells = (picture.truth > 0) | (found > 0)
    return float((found == picture.truth)[cells].mean()) if cells.any() else 1.0


def _wandb_image(picture: SegmentedImage, names: dict[int, str]) -> Any:
    import wandb

    masks = {"predictions": {"mask_data": picture.predictions["prediction"], "class_labels": names}}
    if picture.truth is not None:
        masks["ground_truth"] = {"mask_data": picture.truth, "class_labels": names}
    return wandb.Image(grey_levels(picture.phase), masks=masks, caption=picture.name)
