"""What paper B's report is made from beside runs: assessed series of stored blood, and generated pairs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hemolens.analysis.storage_figures import DayImage
from hemolens.analysis.storage_paper_figures import PhaseWithClasses
from hemolens.io.labels import read_labels
from hemolens.io.phase import read_phase

GALLERY_NPZ = "gallery.npz"


@dataclass(frozen=True)
class StorageSeries:
    """What ``predict pipeline=storage`` wrote.

    Attributes:
        path: its folder.
        summary: ``storage.json``.
        days: shares by day and type, with errors where the truth is known.
    """

    path: Path
    summary: dict[str, Any]
    days: pd.DataFrame

    def gallery(self) -> list[DayImage]:
        """An image of each day; none where they were not kept."""
        return read_gallery(self.path / GALLERY_NPZ)


@dataclass(frozen=True)
class GeneratedPairs:
    """What ``hemolens generate`` wrote: all pairs, and which were chosen.

    Attributes:
        path: its folder.
        pairs: ``selected/accept.csv``.
        about: ``sampled/sampling.json``.
    """

    path: Path
    pairs: pd.DataFrame
    about: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Background first."""
        return [str(name) for name in self.about["class_names"]]

    def examples(self, count: int) -> list[PhaseWithClasses]:
        """Chosen pairs with most types in them, in the order of their names."""
        types = self.class_names[1:]
        chosen = self.pairs[self.pairs["accept"] == 1]
        chosen = chosen.assign(kinds=(chosen[types] > 0).sum(axis=1))
        best = chosen.sort_values(["kinds", "name"], ascending=[False, True], kind="stable").head(count)
        return [_read_pair(self.path / "sampled", str(name)) for name in sorted(best["name"])]


def read_series(folder: Path) -> StorageSeries:
    """The tables of a folder of ``predict pipeline=storage``."""
    summary = json.loads((folder / "storage.json").read_text(encoding="utf-8"))
    return StorageSeries(folder, summary, pd.read_csv(folder / "days.csv"))


def read_pairs(folder: Path) -> GeneratedPairs:
    """The tables of a folder of ``hemolens generate``."""
    about = json.loads((folder / "sampled" / "sampling.json").read_text(encoding="utf-8"))
    return GeneratedPairs(folder, pd.read_csv(folder / "selected" / "accept.csv"), about)


def write_gallery(path: Path, images: list[DayImage]) -> None:
    """Keep images of days, so that a report can draw them again."""
    arrays: dict[str, Any] = {"titles": np.array([image.title for image in images])}
    for number, image in enumerate(images):
        arrays[f"phase_{number}"] = image.phase.astype(np.float16)
        arrays[f"pixel_um_{number}"] = np.float64(np.nan if image.pixel_um is None else image.pixel_um)
        arrays[f"classes_{number}"] = image.classes.astype(np.uint8)
    np.savez_compressed(path, **arrays)


def read_gallery(path: Path) -> list[DayImage]:
    """What :func:`write_gallery` wrote; nothing where there is no file."""
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as stored:
        images = []
        for number, title in enumerate(stored["titles"]):
            phase, classes = stored[f"phase_{number}"].astype(np.float32), stored[f"classes_{number}"]
            pixel_um = float(stored[f"pixel_um_{number}"]) if f"pixel_um_{number}" in stored else np.nan
            images.append(DayImage(str(title), phase, classes, None if np.isnan(pixel_um) else pixel_um))
        return images


def _read_pair(folder: Path, name: str) -> PhaseWithClasses:
    phase, classes = (folder / part / f"{name}.ome.tif" for part in ("phase", "classes"))
    return PhaseWithClasses(name, read_phase(phase).phase_rad, read_labels(classes))
