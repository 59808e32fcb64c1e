"""Detections of one image as plain numpy arrays: what the COCO, GeoJSON and CSV writers take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemolens.errors import UserError


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Boxes found in (or drawn by hand over) one image, in the pixels of the file as it lies on disk.

    Args:
        file_name: path relative to the input folder, with forward slashes; unique within a result.
        height, width: size of the image in pixels.
        boxes: float32 ``[N, 4]``, xyxy pixels, ``(0, 0)`` = outer corner of the first pixel.
        labels: int64 ``[N]``, 0 … C-1, no background class.
        scores: float32 ``[N]``, 0 … 1.

    Raises:
        ValueError: the arrays do not belong together, a label is negative or a coordinate is not finite.
    """

    file_name: str
    height: int
    width: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        labels = np.asarray(self.labels, dtype=np.int64)
        scores = np.asarray(self.scores, dtype=np.float32)
        if labels.shape != (len(boxes),) or scores.shape != (len(boxes),):
            raise ValueError(
                f"{self.file_name}: {len(boxes)} boxes need as many labels and scores, "
                f"not shapes {labels.shape} and {scores.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and (labels >= 0).all()):
            raise ValueError(f"{self.file_name}: boxes and scores must be finite and labels 0 or more")
        for name, array in (("boxes", boxes), ("labels", labels), ("scores", scores)):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """Bool ``[N]``: the box reaches within one pixel of the image's edge, so the cell may be cut."""
        x1, y1, x2, y2 = self.boxes.T
        near = 1.0
        return (x1 <= near) | (y1 <= near) | (x2 >= self.width - near) | (y2 >= self.height - near)


def check_labels(detections: ImageDetections, class_names: Sequence[str]) -> None:
    """Raise :class:`UserError` where a label has no name."""
    if len(detections) and detections.labels.max() >= len(class_names):
        raise UserError(
            f"{detections.file_name}: label {detections.labels.max()} has no name among the "
            f"{len(class_names)} classes {', '.join(class_names)}"
        )
