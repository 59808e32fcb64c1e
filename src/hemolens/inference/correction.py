"""The images that are worth correcting first, as pictures with boxes that labelling tools and QuPath can edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemolens.analysis.figures import displayable
from hemolens.inference.ranking import ImageUncertainty
from hemolens.io.atomic import atomic_path
from hemolens.io.coco import write_coco
from hemolens.io.detections import ImageDetections
from hemolens.io.geojson import write_geojson
from hemolens.io.tables import write_csv

IMAGES, ANNOTATIONS, GEOJSON = "images", "annotations.json", "geojson"
RANKING_COLUMNS = (
    *("rank", "image", "uncertainty", "uncertainty_per_cell"),
    *("n_cells", "n_ambiguous", "n_near_misses", "most_confused"),
)
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class _Kept:
    uncertainty: float
    picture: PurePosixPath
    detections: ImageDetections
    pixels: NDArray[np.uint8]


class Ranking:
    """Images by falling uncertainty, and the pictures of the first few.

    Args:
        to_correct: how many pictures are kept.
    """

    def __init__(self, to_correct: int) -> None:
        self.to_correct = to_correct
        self._rows: list[tuple[str, ImageUncertainty]] = []
        self._kept: list[_Kept] = []

    def add(
        self, stem: PurePosixPath, detections: ImageDetections, uncertainty: ImageUncertainty, pixels: NDArray[Any]
    ) -> None:
        """Take an image in; its pixels are let go as soon as enough others are more uncertain."""
        self._rows.append((detections.file_name, uncertainty))
        if len(self._kept) == self.to_correct and not (
            self.to_correct and uncertainty.total > self._kept[-1].uncertainty
        ):
            return
        picture = stem.with_name(f"{stem.name}.png")
        self._kept.append(_Kept(uncertainty.total, picture, detections, displayable(pixels)))
        self._kept = sorted(self._kept, key=lambda kept: -kept.uncertainty)[: self.to_correct]

    def write_table(self, path: Path) -> None:
        """``RANKING_COLUMNS``, a row an image, the most uncertain first."""
        ordered = sorted(self._rows, key=lambda row: -row[1].total)
        rows = []
        for rank, (name, u) in enumerate(ordered, start=1):
            measures = (round(u.total, _DECIMALS), round(u.mean, _DECIMALS))
            rows.append((rank, name, *measures, u.n_cells, u.n_ambiguous, u.n_near_misses, u.most_confused))
        write_csv(path, RANKING_COLUMNS, rows)

    def write_pictures(self, folder: Path, class_names: Sequence[str], info: Mapping[str, Any] | None) -> None:
        """``images/<image>.png`` (8 bits), ``annotations.json`` (COCO) and ``geojson/<image>.geojson``, editable."""
        drafts = []
        for kept in self._kept:
            with atomic_path(folder / IMAGES / kept.picture) as temporary:
                Image.fromarray(kept.pixels).save(temporary)
            found = kept.detections
            arrays = (found.boxes, found.labels, found.scores)
            drafts.append(ImageDetections(str(kept.picture), found.height, found.width, *arrays))
            write_geojson(
                folder / GEOJSON / kept.picture.with_suffix(".geojson"), found, class_names, object_type="annotation"
            )
        write_coco(folder / ANNOTATIONS, drafts, class_names, info=info)
