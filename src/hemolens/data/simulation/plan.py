"""What a simulated data set is made of. Free of torch, so that the processes that simulate start quickly."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hemolens.data import planes
from hemolens.data.splits import SPLITS, split_by_group
from hemolens.errors import UserError
from hemolens.io.volumes import projections
from hemolens.optics import fields as optics_fields
from hemolens.optics import placement, tomography
from hemolens.optics.cells import CLASS_NAMES, cell, composed, drawing, red, settings, solids, voxels, white
from hemolens.optics.fields import FieldSettings

# Everything that decides what a field looks like: a change of these files makes a new cache.
_SOURCES = (
    *(optics_fields, placement, tomography),
    *(cell, composed, drawing, red, settings, solids, voxels, white),
    *(projections, planes),
)
_STORED_BY = ("run.py", "truth.py")  # beside this file; they import it

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataSetPlan:
    """What to simulate.

    Args:
        fov: settings of a field of view.
        n_samples: blood samples, each from its own donor.
        fields_per_sample: fields of each sample, before any enrichment.
        split: share of the samples for training, validation and test.
        test_floor: least number of test cells of each class; classes left out have none.
        enriched_fraction: in the test fields that are added to reach the floors, the share of cells that
            comes from the classes that lack cells; the rest follows the usual mixture.
        seed: with sample and field number the source of every draw; also of the split.

    Raises:
        UserError: a value out of range.
    """

    fov: FieldSettings = field(default_factory=FieldSettings)
    n_samples: int = 45
    fields_per_sample: int = 27
    split: tuple[float, ...] = (0.7, 0.2, 0.1)
    test_floor: Mapping[str, int] = field(default_factory=dict)
    enriched_fraction: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < len(SPLITS) or self.fields_per_sample < 1:
            raise UserError(
                f"n_samples={self.n_samples}, fields_per_sample={self.fields_per_sample}: at least "
                f"{len(SPLITS)} samples (one a split) of one field are needed"
            )
        if len(self.split) != len(SPLITS):
            raise UserError(f"split={list(self.split)}: give three shares, for {', '.join(SPLITS)}")
        unknown = set(self.test_floor) - set(CLASS_NAMES)
        if unknown:
            raise UserError(f"test_floor: unknown {sorted(unknown)}; classes are {', '.join(CLASS_NAMES)}")
        if not 0 < self.enriched_fraction <= 1:
            raise UserError(f"enriched_fraction={self.enriched_fraction}: must be above 0 and at most 1")

    def fingerprint(self) -> str:
        """Hash of this plan and of the code that draws fields: the name of the cache folder."""
        text = json.dumps(asdict(self), sort_keys=True) + _code()
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def samples(self, split: str) -> list[int]:
        """Numbers of the samples of one split."""
        groups = split_by_group(range(self.n_samples), self.split, seed=self.seed)
        return groups[SPLITS.index(split)]


@cache
def _code() -> str:
    """Source of all that decides what a field looks like; read once, so that edits do not split a running job."""
    here = Path(__file__).parent
    return "".join(
        [inspect.getsource(module) for module in _SOURCES] + [(here / name).read_text() for name in _STORED_BY]
    )


@dataclass(frozen=True)
class FieldJob:
    """One field to simulate; ``fractions`` of the classes instead of the sample's own, or None."""

    split: str
    sample: int
    number: int
    fractions: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """File name without suffix, e.g. ``s003_f012``."""
        return f"s{self.sample:03d}_f{self.number:03d}"


@dataclass(frozen=True)
class FieldRecord:
    """One stored field: where it belongs and what is in it.

    Attributes:
        name: file name without suffix, e.g. ``s003_f012``.
        split: train, val or test.
        sample: number of the blood sample.
        field: number of the field in its sample.
        enriched: whether it was added to reach the test floors.
        class_counts: labelled cells of each class, in the order of ``CLASS_NAMES``.
        touching: labelled cells that touch or overlap another in projection.
        cut: labelled cells that the border cuts.
        left_out: cells that found no room in the stack.
    """

    name: str
    split: str
    sample: int
    field: int
    enriched: bool
    class_counts: tuple[int, ...]
    touching: int
    cut: int
    left_out: int


def build_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A settings dataclass from nested plain values, e.g. from YAML; lists become tuples.

    Raises:
        UserError: an unknown key, named with its place, or a value that the class refuses.
    """
    assert is_dataclass(kind)
    known = {entry.name: entry.type for entry in fields(kind)}
    unknown = set(values) - set(known)
    if unknown:
        raise UserError(f"{where} has no key {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    built: dict[str, Any] = {}
    for key, value in values.items():
        nested = known[key]
        if isinstance(nested, type) and is_dataclass(nested):
            built[key] = build_settings(nested, value, f"{where}.{key}")
        elif isinstance(value, Mapping):
            built[key] = dict(value)
        else:
            built[key] = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return kind(**built)


def statistics_of(records: Sequence[FieldRecord]) -> dict[str, Any]:
    """Numbers of fields and cells, and the shares of labelled cells that touch another or are cut."""
    totals = np.sum([record.class_counts for record in records], axis=0)
    cells = int(totals.sum())
    return {
        "n_samples": len({record.sample for record in records}),
        "n_fields": len(records),
        "n_enriched_fields": sum(record.enriched for record in records),
        "n_cells": cells,
        "class_counts": dict(zip(CLASS_NAMES, (int(total) for total in totals), strict=True)),
        "touching_fraction": sum(record.touching for record in records) / max(cells, 1),
        "border_fraction": sum(record.cut for record in records) / max(cells, 1),
        "left_out": sum(record.left_out for record in records),
    }
