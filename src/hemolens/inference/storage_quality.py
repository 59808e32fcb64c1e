"""Whether the images of stored blood can be trusted, and the one-page report of each bag."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemolens.analysis.image_quality import MEASURES, QualityFlag, QualityLimits, flag_image, measure_image
from hemolens.analysis.morphology_score import morphology_score
from hemolens.analysis.quality_report import (
    EXAMPLE_PX,
    THUMBNAIL_PX,
    BagQuality,
    FlaggedImage,
    TypeShare,
    write_quality_report,
)
from hemolens.analysis.segmentation_figures import overlay
from hemolens.analysis.storage_series import INTERVALS
from hemolens.inference.segmentation_outputs import SegmentedField
from hemolens.io.tables import write_csv

QUALITY_CSV, REPORTS_FOLDER = "image_quality.csv", "reports"


@dataclass(frozen=True)
class StoredImage:
    """What a manifest says of an image.

    Attributes:
        bag: that it is of.
        storage_day: days since donation; NaN where they are not known.
        expiry: of the bag, YYYY-MM-DD.
        hemolysis_percent: as the laboratory measured it.
    """

    bag: str
    storage_day: float
    expiry: str | None = None
    hemolysis_percent: float | None = None

    @property
    def day_cell(self) -> float | str:
        """The storage day as tables have it: empty where it is not known."""
        return "" if math.isnan(self.storage_day) else self.storage_day


@dataclass
class _LatestDay:
    """The images of a bag's latest day, whose report they are."""

    storage_day: float
    expiry: str | None = None
    hemolysis_percent: float | None = None
    flagged: list[FlaggedImage] = field(default_factory=list)
    example: NDArray[np.uint8] | None = None
    example_flagged: bool = True
    left_out: int = 0


@dataclass
class StorageQuality:
    """Measures and flags each image, and writes a report of each bag's latest day.

    Args:
        class_names: background first.
        limits: where an image is flagged.
        phase_limits_rad: of the network; others are clipped.
        about: checkpoint, commit, date …, for the foot of the reports.
    """

    class_names: Sequence[str]
    limits: QualityLimits = field(default_factory=QualityLimits)
    phase_limits_rad: tuple[float, float] = (-1.0, 5.0)
    about: Mapping[str, Any] = field(default_factory=dict)
    _rows: list[list[Any]] = field(default_factory=list, init=False)
    _bags: dict[str, _LatestDay] = field(default_factory=dict, init=False)

    def add(self, stored: StoredImage, result: SegmentedField) -> list[QualityFlag]:
        """Flags of an image.

        Args:
            stored: what the manifest says of it.
            result: what was found in it.
        """
        image, maps = result.image, result.maps
        measures = measure_image(
            image.phase_rad,
            maps["classes"],
            maps["instances"],
            probability=maps["probability"],
            reconstruction=result.quality,
            pixel_um=image.pixel_um,
            wavelength_um=image.wavelength_um,
            phase_limits_rad=self.phase_limits_rad,
            **({} if image.medium_index is None else {"medium_index": image.medium_index}),
        )
        flags = flag_image(measures, self.limits)
        values = ["" if math.isnan(measures[name]) else round(measures[name], 4) for name in MEASURES]
        self._rows.append([result.file, stored.bag, stored.day_cell, flag_names(flags), *values])
        self._show(stored, result, flags)
        return flags

    def leave_out(self, stored: StoredImage, file: str, reason: str) -> None:
        """Note an image that could not be analysed: its bag's report says so.

        Args:
            stored: what the manifest says of it.
            file: its name.
            reason: why.
        """
        flag = QualityFlag("unusable", "", 0.0, 0.0, f"Not analysed, in no number: {reason}")
        self._rows.append([file, stored.bag, stored.day_cell, flag.name, *[""] * len(MEASURES)])
        if (latest := self._latest(stored)) is not None:
            latest.flagged.append(FlaggedImage(file=file, flags=[flag], picture=np.full((64, 64, 3), 225, np.uint8)))
            latest.left_out += 1

    def _latest(self, stored: StoredImage) -> _LatestDay | None:
        """The bag's latest day; None where the image is of an earlier one."""
        latest = self._bags.get(stored.bag)
        if latest is None or _later(stored.storage_day, latest.storage_day):
            latest = self._bags[stored.bag] = _LatestDay(stored.storage_day, latest.expiry if latest else None)
        latest.expiry = latest.expiry or stored.expiry
        if _later(latest.storage_day, stored.storage_day):
            return None
        if latest.hemolysis_percent is None:
            latest.hemolysis_percent = stored.hemolysis_percent
        return latest

    def _show(self, stored: StoredImage, result: SegmentedField, flags: list[QualityFlag]) -> None:
        """Keep what the report of the bag's latest day shows."""
        latest = self._latest(stored)
        if latest is None:
            return
        wanted = latest.example is None or (latest.example_flagged and not flags)
        if not flags and not wanted:
            return
        maps = result.maps
        pixels = overlay(result.image.phase_rad, maps["classes"], self.class_names, maps["instances"])
        if flags:
            picture = _thinned(pixels, THUMBNAIL_PX)
            latest.flagged.append(FlaggedImage(file=result.file, flags=flags, picture=picture))
        if wanted:
            latest.example, latest.example_flagged = _thinned(pixels, EXAMPLE_PX), bool(flags)

    def finish(self, folder: Path, images: pd.DataFrame, series: pd.DataFrame) -> None:
        """Write ``image_quality.csv`` and ``reports/<bag>/quality.html`` and ``.pdf``.

        Args:
            folder: of the results.
            images: a row an image: ``bag``, ``storage_day``, ``undecided`` and the cells of each type.
            series: of ``analysis.storage_series.series_table``, by bag and day.

        Raises:
            UserError: the disk is full.
        """
        write_csv(folder / QUALITY_CSV, ["file", "bag", "storage_day", "flags", *MEASURES], self._rows)
        for name, (bag, latest) in zip(folder_names(self._bags), self._bags.items(), strict=True):
            write_quality_report(folder / REPORTS_FOLDER / name, self._bag(bag, latest, images, series))

    def _bag(self, bag: str, latest: _LatestDay, images: pd.DataFrame, series: pd.DataFrame) -> BagQuality:
        types = list(self.class_names[1:])
        own_images, own = (table[table["bag"] == bag] for table in (images, series))
        dated = own.dropna(subset=["storage_day"])
        history = [
            (float(day), dict(zip(group["type"], group["share"], strict=True)))
            for day, group in dated.groupby("storage_day")
        ]
        unknown = math.isnan(latest.storage_day)
        now, rows = (
            table[table["storage_day"].isna() if unknown else table["storage_day"] == latest.storage_day]
            for table in (own_images, own)
        )
        counts = [{name: int(row[name]) for name in types} for _, row in now.iterrows()]
        undecided = int(now["undecided"].sum())
        shares = [
            TypeShare(name=row["type"], count=int(row["count"]), share=row["share"], low=row["low"], high=row["high"])
            for _, row in rows.iterrows()
        ] or [TypeShare(name=name, count=0, share=math.nan, low=math.nan, high=math.nan) for name in types]
        words = f"{INTERVALS[rows['interval'].iloc[0]]}; flagged images count too" if len(rows) else "no image analysed"
        return BagQuality(
            bag=bag,
            storage_day=None if unknown else latest.storage_day,
            expiry=latest.expiry,
            hemolysis_percent=latest.hemolysis_percent,
            images=len(now) + latest.left_out,
            cells=int(now[types].to_numpy().sum()) + undecided,
            undecided=undecided,
            shares=shares,
            interval_words=words,
            score=morphology_score({name: sum(row[name] for row in counts) for name in types}, images=counts),
            flagged=sorted(latest.flagged, key=_badness, reverse=True),
            example=latest.example,
            history=history,
            about=self.about,
        )


def flag_names(flags: Iterable[QualityFlag]) -> str:
    """The names of flags as they stand in a table."""
    return "; ".join(flag.name for flag in flags)


def _later(day: float, other: float) -> bool:
    """Whether a day is later than another; any day is later than one that is not known."""
    return not math.isnan(day) and (math.isnan(other) or day > other)


def _badness(image: FlaggedImage) -> tuple[int, float]:
    """How many flags, and how far the worst is beyond its limit."""
    beyond = [
        max(flag.value / flag.limit, flag.limit / flag.value) for flag in image.flags if flag.value and flag.limit
    ]
    return len(image.flags), max(beyond, default=math.inf)


def _thinned(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """At most twice the side, by leaving rows and columns out: what is kept until the end must be small."""
    step = max(1, max(pixels.shape[:2]) // (2 * side))
    return np.ascontiguousarray(pixels[::step, ::step])


def folder_names(bags: Iterable[str]) -> list[str]:
    """A folder for each bag: its name with what file systems do not like replaced; no two alike."""
    found: list[str] = []
    for bag in bags:
        name = re.sub(r"[^\w.=+-]+", "_", bag).strip("._")[:80] or "bag"
        used = {other.lower() for other in found}
        number = 2
        unique = name
        while unique.lower() in used:
            unique, number = f"{name}-{number}", number + 1
        found.append(unique)
    return found
