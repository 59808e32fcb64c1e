"""How a detector sees a tomogram: which projections, and how refractive indices are brought to [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemolens.data.planes import PLANES, Planes
from hemolens.errors import UserError

#: What a detector can be shown -> its channels. Stretched between its own lowest and highest value a phase image is the
#: mean, since the one is the other times a factor, plus a constant.
CHANNELS = {
    "maximum": ("maximum",),
    "mean": ("mean",),
    "phase": ("mean",),
    "focus": ("focus",),
    "max_mean_focus": PLANES,
}
NORMS = ("minmax_projection", "minmax_volume", "ri_window")
#: RI above the medium: background of 2e-4 and noise of 5e-4 stay inside, white cells and the densest red cells too.
RI_WINDOW = (-0.002, 0.078)

Limits = tuple[float, float]


@dataclass(frozen=True)
class ProjectionRecord:
    """One tomogram as a detector sees it.

    Attributes:
        image_id: its name.
        path: .npz that begins with the pictures of the tomogram, see ``data.planes``.
        boxes: float32 [M, 4], xyxy in pixels.
        labels: int64 [M].
    """

    image_id: str
    path: Path
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TomogramView:
    """A projection and a norm: a value v becomes (v - low) / (high - low), cut off at 0 and 1.

    Args:
        projection: ``maximum``, ``mean``, ``phase`` or ``focus`` (one channel, see ``io.volumes.project_volume``), or
            ``max_mean_focus`` (three).
        norm: what low and high are: the lowest and highest value of each projected picture (``minmax_projection``), of
            the whole volume (``minmax_volume``), or fixed distances from the medium's index (``ri_window``).
        ri_window: lowest and highest RI above the medium, for ``ri_window``.

    Raises:
        UserError: an unknown word, an empty window, or a norm of refractive indices for a phase.
    """

    projection: str = "maximum"
    norm: str = "minmax_projection"
    ri_window: tuple[float, ...] = RI_WINDOW

    def __post_init__(self) -> None:
        if self.projection not in CHANNELS:
            raise UserError(f"projection={self.projection}: choose from {', '.join(CHANNELS)}")
        if self.norm not in NORMS:
            raise UserError(f"norm={self.norm}: choose from {', '.join(NORMS)}")
        if len(self.ri_window) != 2 or not self.ri_window[0] < self.ri_window[1]:
            raise UserError(f"ri_window={list(self.ri_window)}: give [lowest, highest] RI above the medium")
        if self.projection == "phase" and self.norm != "minmax_projection":
            raise UserError(
                f"norm={self.norm} is made for refractive indices, a phase is in rad: choose norm=minmax_projection, "
                "or projection=mean"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """The planes that are seen."""
        return CHANNELS[self.projection]

    def limits(self, planes: Planes) -> list[Limits]:
        """The values that become 0 and 1, for each channel."""
        if self.norm == "minmax_projection":
            return [tuple(planes.ranges[PLANES.index(name)].tolist()) for name in self.channels]
        low, high = planes.volume_range
        if self.norm == "ri_window":
            low, high = (planes.medium_index + part for part in self.ri_window)
        return [(low, high)] * len(self.channels)

    def see(
        self, planes: Planes, *, limits: Sequence[Limits] | None = None, window: tuple[slice, slice] | None = None
    ) -> NDArray[np.float32]:
        """Network input of a tomogram, float32 [C, H, W] in [0, 1].

        Args:
            planes: of the tomogram.
            limits: those of another tomogram instead of its own, to show a part of this one in that.
            window: rows and columns; None takes all.
        """
        limits = self.limits(planes) if limits is None else limits
        height, width = planes.stored.shape[1:]
        rows, columns = window or (slice(0, height), slice(0, width))
        seen = []
        for name, (low, high) in zip(self.channels, limits, strict=True):
            at = PLANES.index(name)
            lowest, highest = planes.ranges[at]
            picture = np.divide(planes.stored[at, rows, columns], np.float32(65535), dtype=np.float32)
            if (low, high) != (lowest, highest):  # else the integers span the range already
                span = max(high - low, 1e-12)
                picture *= np.float32((highest - lowest) / span)
                picture += np.float32((lowest - low) / span)
                np.clip(picture, 0, 1, out=picture)
            seen.append(picture)
        return np.stack(seen)
