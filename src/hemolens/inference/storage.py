"""Stored blood by bag and day: shares of the types, their trend, and errors where the truth is known."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hemolens.analysis.figures import plot_confusion, save_figure
from hemolens.analysis.storage_figures import DayImage, middle, plot_errors, plot_gallery, plot_morphology, plot_trend
from hemolens.analysis.storage_series import series_table, with_truth
from hemolens.analysis.storage_sources import GALLERY_NPZ, write_gallery
from hemolens.analysis.type_confidence import type_probabilities
from hemolens.data.phase_folder import CLASSES_FOLDER, INSTANCES_FOLDER, MASK_SUFFIXES, plain_stem
from hemolens.errors import UserError
from hemolens.inference.hologram_jobs import MANIFEST, place_of
from hemolens.inference.segmentation_outputs import SegmentedField
from hemolens.inference.storage_quality import StorageQuality, StoredImage, flag_names
from hemolens.io.atomic import atomic_path, write_json
from hemolens.io.labels import read_labels
from hemolens.io.manifest import read_manifest
from hemolens.metrics.segmentation import SegmentationScores, class_counts

#: Columns of a manifest that say which bag and day an image is of; the first that is there counts.
BAG_COLUMNS, DAY_COLUMNS = ("bag", "donor", "sample"), ("storage_day", "day")
IMAGES_CSV, SERIES_CSV, DAYS_CSV, SUMMARY_JSON = "images.csv", "series.csv", "days.csv", "storage.json"


def read_stored_images(manifest: Path) -> dict[str, StoredImage]:
    """Bag and day of each file of a manifest, by the file's path below the manifest's folder.

    Args:
        manifest: CSV with the columns ``file`` and ``sample``, ``bag`` (else ``donor``, else ``sample`` is the bag) and
            ``storage_day`` (or ``day``); ``expiry`` (YYYY-MM-DD) and ``hemolysis_percent`` are taken where they stand.

    Raises:
        UserError: damaged, no column of days, or a day, a date or a percentage that is none.
    """
    rows = read_manifest(manifest)
    first = next(iter(rows.values()))
    bag_column = next(name for name in BAG_COLUMNS if name in first)
    day_column = next((name for name in DAY_COLUMNS if name in first), None)
    if day_column is None:
        raise UserError(f"{manifest} has no column storage_day: add the days of storage of each file")
    found = {}
    for file, row in rows.items():
        day = _number(manifest, file, day_column, row[day_column])
        if day < 0:
            raise UserError(f"{manifest}: {day_column} of {file} is {day:g}: give the days of storage, 0 or more")
        hemolysis = _number(manifest, file, "hemolysis_percent", row.get("hemolysis_percent"))
        if not np.isnan(hemolysis) and not 0 <= hemolysis <= 100:
            raise UserError(f"{manifest}: hemolysis_percent of {file} is {hemolysis:g}: give 0 to 100")
        expiry = (row.get("expiry") or "").strip() or None
        if expiry is not None:
            try:
                date.fromisoformat(expiry)
            except ValueError as error:
                raise UserError(f"{manifest}: expiry of {file} is {expiry!r}: write it as 2026-12-31") from error
        found[file] = StoredImage(row[bag_column] or "unknown", day, expiry, None if np.isnan(hemolysis) else hemolysis)
    return found


def _number(manifest: Path, file: str, column: str, text: str | None) -> float:
    """A cell of the manifest; NaN where it is empty."""
    text = (text or "").strip()
    try:
        return float(text) if text else float("nan")
    except ValueError as error:
        raise UserError(f"{manifest}: {column} of {file} is {text!r}, no number") from error


@dataclass
class StorageOutputs:
    """Counts the types by bag and day while images are segmented; see :meth:`finish`.

    Cells that the border cuts are in no share, since what is left of them does not say their type.

    Args:
        source: file or folder that is looked at.
        class_names: background first.
        manifest: see :func:`read_stored_images`; None: ``manifest.csv`` in ``source`` or beside it.
        temperature: of the types' probabilities, see ``analysis.type_confidence``.
        least_probability: cells whose type is less probable are left undecided, and are in no share.
        truth: folder with ``classes/`` and ``instances/`` of the same names; None: the manifest's, where it has them.
        quality: flags images and reports each bag; None: with the default limits.

    Raises:
        UserError: no manifest, or a damaged one, or a probability out of range.
    """

    source: Path
    class_names: Sequence[str]
    manifest: Path | None = None
    truth: Path | None = None
    temperature: float = 1.0
    least_probability: float = 0.0
    quality: StorageQuality | None = None
    _images: list[dict[str, Any]] = field(default_factory=list, init=False)
    _cells: list[dict[str, Any]] = field(default_factory=list, init=False)
    _gallery: dict[float, DayImage] = field(default_factory=dict, init=False)
    _left_out: list[str] = field(default_factory=list, init=False)
    _flag_counts: Counter[str] = field(default_factory=Counter, init=False)
    columns: tuple[str, ...] = ("bag", "storage_day", "type_probability", "decided")

    def __post_init__(self) -> None:
        if not 0 <= self.least_probability < 1:
            raise UserError(f"storage.least_probability={self.least_probability}: give 0 or more, below 1")
        base = self.source if self.source.is_dir() else self.source.parent
        if self.manifest is None:
            near = [folder / MANIFEST for folder in (base, base.parent) if (folder / MANIFEST).is_file()]
            if not near:
                raise UserError(
                    f"{base} holds no {MANIFEST}, which says the bag and day of each image: write one with the columns "
                    "file, sample, bag, storage_day, or name it in hologram.manifest"
                )
            self.manifest = near[0]
        elif not self.manifest.is_file():
            raise UserError(f"no manifest at hologram.manifest={self.manifest}")
        self._places: dict[Path, StoredImage] = {}
        self._stems: dict[str, list[StoredImage]] = {}
        for file, image in read_stored_images(self.manifest).items():
            self._places.setdefault(place_of(self.manifest.parent / file), image)
            self._stems.setdefault(plain_stem(file), []).append(image)
        folder = self.manifest.parent if self.truth is None else self.truth
        known = all((folder / name).is_dir() for name in (CLASSES_FOLDER, INSTANCES_FOLDER))
        if self.truth is not None and not known:
            raise UserError(
                f"storage.truth={folder} lacks {CLASSES_FOLDER}/ and {INSTANCES_FOLDER}/: give their folder"
            )
        self._truth = folder if known else None
        self._scores = SegmentationScores(len(self.class_names))
        self._quality = self.quality or StorageQuality(self.class_names)

    def check(self, files: Sequence[Path]) -> None:
        """Refuse files of which bag or truth are not known, before hours of work.

        Raises:
            UserError: a file that the manifest does not list, or without a mask of the truth.
        """
        for file in files:
            self.of(file)
            if self._truth is not None:
                self._masks(plain_stem(file.name))

    def of(self, file: Path) -> StoredImage:
        """Bag and day of a file: its own row, or the one row of a file of its name (phases of listed holograms).

        Raises:
            UserError: the manifest does not say it.
        """
        if (own := self._places.get(place_of(file))) is not None:
            return own
        alike = self._stems.get(plain_stem(file.name), [])
        if len(alike) != 1:
            count = "no row" if not alike else f"{len(alike)} rows"
            raise UserError(f"{self.manifest} has {count} for {file}: give it one, with its bag and storage_day")
        return alike[0]

    def add(self, result: SegmentedField, cells: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Take in an image; returns the values of ``columns`` for each of its cells.

        Args:
            result: what was found, with ``cell_log_probability``; its ``file`` is relative to the source.
            cells: rows of ``analysis.red_cells.measure_red_cells``.

        Raises:
            UserError: the manifest or the truth of the image cannot be read.
        """
        path = (self.source if self.source.is_dir() else self.source.parent) / result.file
        image = self.of(path)
        types = self.class_names[1:]
        row: dict[str, Any] = {"file": result.file, "bag": image.bag, "storage_day": image.storage_day}
        probabilities = type_probabilities(result.maps["cell_log_probability"], self.temperature)
        sure = [float(probabilities[cell["cell"] - 1, types.index(cell["type"])]) for cell in cells]
        decided = [value >= self.least_probability for value in sure]
        whole = [not cell["cut"] for cell in cells]
        counted = [cell for cell, *kept in zip(cells, decided, whole, strict=True) if all(kept)]
        for name in types:
            row[name] = sum(cell["type"] == name for cell in counted)
        row["undecided"] = sum(whole) - len(counted)
        row["cut"] = len(cells) - sum(whole)
        flags = self._quality.add(image, result)
        row["flags"] = flag_names(flags)
        self._flag_counts.update(flag.name for flag in flags)
        if self._truth is not None:
            row |= self._compare(plain_stem(path.name), result)
        self._images.append(row)
        self._cells += [{"storage_day": image.storage_day, **cell} for cell in counted]
        if not np.isnan(image.storage_day) and image.storage_day not in self._gallery:
            title = f"day {image.storage_day:g}"
            phase, classes = (np.array(middle(values)) for values in (result.image.phase_rad, result.maps["classes"]))
            self._gallery[image.storage_day] = DayImage(title, phase, classes, result.image.pixel_um)
        return [
            [image.bag, image.day_cell, round(value, 4), int(kept)] for value, kept in zip(sure, decided, strict=True)
        ]

    def leave_out(self, file: Path, reason: str) -> None:
        """Note an image that could not be analysed; it is in no share, and its bag's report says so.

        Args:
            file: as given to :meth:`check`.
            reason: why.
        """
        base = self.source if self.source.is_dir() else self.source.parent
        name = Path(os.path.relpath(file, base)).as_posix()
        self._left_out.append(name)
        self._quality.leave_out(self.of(file), name, reason)

    def _compare(self, stem: str, result: SegmentedField) -> dict[str, int]:
        """True cells of each type; how they were called goes into the scores."""
        classes, instances = (read_labels(file).astype(np.int64) for file in self._masks(stem))
        if classes.shape != result.maps["classes"].shape:
            raise UserError(
                f"the mask of {stem} is {list(classes.shape)}, its phase {list(result.maps['classes'].shape)}: "
                "give masks of the same size"
            )
        found = [torch.from_numpy(result.maps[name].astype(np.int64))[None] for name in ("classes", "instances")]
        true = [torch.from_numpy(values)[None] for values in (classes, instances)]
        self._scores.update(found[0], true[0], found[1], true[1])
        labels = class_counts(true[1][0], true[0][0], len(self.class_names))[:, 1:].argmax(1).tolist()
        return {f"true_{name}": labels.count(index) for index, name in enumerate(self.class_names[1:])}

    def _masks(self, stem: str) -> list[Path]:
        """Class and instance mask of an image."""
        assert self._truth is not None
        found = []
        for folder in (CLASSES_FOLDER, INSTANCES_FOLDER):
            files = [self._truth / folder / f"{stem}{suffix}" for suffix in MASK_SUFFIXES]
            there = [file for file in files if file.is_file()]
            if not there:
                raise UserError(f"{self._truth / folder} has no mask of {stem}: add it, or move the folder away")
            found.append(there[0])
        return found

    @property
    def flagged_images(self) -> int:
        """How many images have a flag."""
        return sum(bool(row["flags"]) for row in self._images)

    def finish(self, folder: Path) -> None:
        """Write the tables and pictures.

        - ``images.csv``: a row an image: bag, day, cells of each type (``true_…``: the truth's, cut
          ones too), undecided and cut ones, flags.
        - ``series.csv``: a row a bag, day and type; ``days.csv``: a row a day and type, all bags together: shares with
          95 % intervals, see ``analysis.storage_series``.
        - ``trend.png``, ``morphology.png``, ``gallery.png``; with truth ``confusion.png`` and ``errors.png``.
        - ``gallery.npz``: what the gallery shows, for reports.
        - ``image_quality.csv`` and a page a bag in ``reports/``, see :class:`StorageQuality`.
        - ``storage.json``: bags, days, flags; with truth the share of the true cells of each type that was called so.
        """
        types = self.class_names[1:]
        images, cells = pd.DataFrame(self._images), pd.DataFrame(self._cells)
        series, days = (series_table(images, types, by=by) for by in (("bag", "storage_day"), ("storage_day",)))
        summary: dict[str, Any] = {
            "images": len(images),
            "undecided_cells": int(images["undecided"].sum()),
            "temperature": self.temperature,
            "least_probability": self.least_probability,
            "left_out": self._left_out,
            "flagged_images": self.flagged_images,
            "flags": dict(self._flag_counts.most_common()),
            "bags": sorted(images["bag"].unique()),
            "storage_days": sorted(images["storage_day"].dropna().unique().tolist()),
        }
        if self._truth is not None:
            series, days = with_truth(series, images, types), with_truth(days, images, types)
            scores = self._scores.compute()
            matrix = scores["types"].numpy()
            counts = np.zeros((len(types) + 1, len(types) + 1), int)  # missed cells in the last column, spurious below
            counts[:-1, :-1], counts[:-1, -1] = matrix[:, 1:], matrix[:, 0]
            counts[-1, :-1] = scores["spurious_types"].numpy()
            save_figure(plot_confusion(counts, types), folder / "confusion.png")
            right = np.diag(matrix[:, 1:]) / np.maximum(matrix.sum(1), 1)
            summary["confusion"] = counts.tolist()
            summary["right_type"] = dict(zip(types, right.round(4).tolist(), strict=True))
            summary["true_cells"] = dict(zip(types, matrix.sum(1).tolist(), strict=True))
            summary["spurious_an_image"] = round(float(scores["spurious"]), 4)
            summary["mean_absolute_error_of_shares"] = round(float(days["error"].abs().mean()), 4)
        for name, table in ((IMAGES_CSV, images), (SERIES_CSV, series), (DAYS_CSV, days)):
            with atomic_path(folder / name) as temporary:
                table.round(5).to_csv(temporary, index=False)
        self._quality.finish(folder, images, series)
        dated = days.dropna(subset=["storage_day"])
        if dated["storage_day"].nunique() > 1:
            save_figure(plot_trend(dated, self.class_names), folder / "trend.png")
            if "error" in dated:
                save_figure(plot_errors(dated, self.class_names), folder / "errors.png")
            if len(cells):
                save_figure(plot_morphology(cells, self.class_names), folder / "morphology.png")
        if self._gallery:
            chosen = [self._gallery[day] for day in sorted(self._gallery)]
            save_figure(plot_gallery(chosen, self.class_names), folder / "gallery.png")
            write_gallery(folder / GALLERY_NPZ, chosen)
        write_json(folder / SUMMARY_JSON, summary)
