"""Red cells of stored blood: four types whose shares change with the days of storage.

A discocyte turns into an echinocyte, then into a spherocyte; stomatocytes are few at all times. The shares by day below
are made so that they agree with all that paper B states (11 days, 3,259 cells, 2,469 / 335 / 312 / 143 of the types,
over 90 % discocytes at the beginning, the change after day 40); its own curve is not in the text. Blood elsewhere
changes much faster (over half are no discocytes by day 21, Blasi 2012): the table is paper B's, not a law.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hemolens.errors import UserError
from hemolens.optics.cells.cell import Cell
from hemolens.optics.cells.drawing import around, red_cell
from hemolens.optics.cells.settings import (
    RED_KINDS,
    Distribution,
    Spectrum,
    at_wavelength,
    check_distribution,
    check_fractions,
    draw,
)

#: Order of paper B: the label of a type is its index + 1, 0 is the background.
TYPE_NAMES = ("discocyte", "spherocyte", "echinocyte", "stomatocyte")

# Cells of each type, in the order of TYPE_NAMES, among those of a day.
_CELLS_BY_DAY = {
    8: (240, 1, 3, 10),
    13: (294, 2, 4, 13),
    16: (338, 3, 6, 16),
    23: (389, 5, 8, 19),
    27: (450, 7, 12, 21),
    30: (239, 4, 8, 11),
    34: (169, 4, 8, 7),
    37: (137, 4, 9, 6),
    40: (168, 37, 85, 19),
    47: (36, 63, 102, 12),
    57: (9, 205, 67, 9),
}
STORAGE_DAYS = tuple(_CELLS_BY_DAY)
#: Day at which the change is seen: paper B says "after 40 d", which can mean either of two.
DROP_DAYS = (40, 47)
LAST_DAY = 365  # that a day is looked up for


def storage_fractions(day: float, *, drop_day: int = 40) -> dict[str, float]:
    """Share of each type after ``day`` days of storage.

    Between the days of paper B the shares are interpolated; before the first and after the last they stay. With
    ``drop_day=47`` the same course is run through later: what ``drop_day=40`` has at days 37, 40 and 57 comes at days
    40, 47 and 57, with days in between in proportion. Only ``drop_day=40`` keeps paper B's totals by type.

    Raises:
        UserError: a negative day, or another day of change.
    """
    if drop_day not in DROP_DAYS:
        raise UserError(f"drop_day={drop_day}: choose from {', '.join(map(str, DROP_DAYS))}")
    if not 0 <= day <= LAST_DAY:
        raise UserError(f"storage_day={day}: give the days of storage, 0 or more")
    if drop_day == 47:
        day = float(np.interp(day, (0, 40, 47, 57), (0, 37, 40, 57)))
    table = np.array([np.array(cells) / sum(cells) for cells in _CELLS_BY_DAY.values()])
    shares = [float(np.interp(day, STORAGE_DAYS, column)) for column in table.T]
    return dict(zip(TYPE_NAMES, shares, strict=True))


def _kinds() -> dict[str, dict[str, float]]:
    return {
        "discocyte": {"discocyte": 1.0},
        "spherocyte": {"spherocyte": 1.0},
        "echinocyte": {"echinocyte_1": 0.2, "echinocyte_2": 0.25, "echinocyte_3": 0.4, "sphero_echinocyte": 0.15},
        "stomatocyte": {"stomatocyte": 1.0},
    }


def _irregularity() -> dict[str, Distribution]:
    return {
        "discocyte": (0.0, 0.1),  # length over width up to 1.12
        "spherocyte": (0.75, 1.0),  # thickness over diameter from 0.85
        "echinocyte": (0.3, 1.0),
        "stomatocyte": (0.0, 1.0),
    }


def _volumes() -> dict[str, Distribution]:
    return {
        "discocyte": (1.0, 1.0),
        "spherocyte": (0.82, 0.98),
        "echinocyte": (0.88, 1.0),
        "stomatocyte": (0.95, 1.1),
    }


@dataclass(frozen=True, kw_only=True)
class StoredBloodSettings:
    """Donors and cells of stored blood. Values without a source are choices.

    Args:
        storage_day: days of storage, which decide the composition (:func:`storage_fractions`), or a list of them: a
            blood bag of each donor at each day. None: ``composition``.
        drop_day: 40 or 47.
        composition: share of each type where no day is given: discocytes dominate, stomatocytes are rarest, as in paper
            B's training images.
        mixture_sd: standard deviation between bags of the logarithm of each share.
        ageing_sd: standard deviation between donors of the logarithm of how fast their bags age: a bag at day t has the
            composition of day t * speed.
        donor_mcv_fl: mean volume of a donor's discocytes (volunteers span 63 to 99.5 fL, Gienger 2019).
        donor_rdw_percent: coefficient of variation of the volume from cell to cell (Gienger 2019).
        donor_mchc_g_dl: mean concentration of hemoglobin in the donor's discocytes (Gienger 2019).
        hemoglobin_cv_percent: of the mass from cell to cell (Gienger 2019).
        alpha_dl_g: refractive index increment.
        kinds: shapes of each type and their shares, see :mod:`hemolens.optics.cells.red`.
        irregularity: of each type: how far its shape goes.
        volume_factor: of each type: its volume over a discocyte's. Hemoglobin stays (Moon 2013): the smaller cell is
            the denser.
        thickness_factor: of the discocyte's profile.
        tilt_deg: lean of a settled cell.
    """

    storage_day: float | tuple[float, ...] | None = None
    drop_day: int = 40
    composition: Mapping[str, float] = field(
        default_factory=lambda: {"discocyte": 0.64, "spherocyte": 0.12, "echinocyte": 0.15, "stomatocyte": 0.09}
    )
    mixture_sd: float = 0.15
    ageing_sd: float = 0.0
    donor_mcv_fl: Distribution = (90.0, 6.0, 75.0, 105.0)
    donor_rdw_percent: Distribution = (12.1, 15.7)
    donor_mchc_g_dl: Distribution = (33.5, 1.0, 31.0, 36.0)
    hemoglobin_cv_percent: Distribution = (3.5, 6.4)
    alpha_dl_g: Spectrum = 0.0019
    kinds: Mapping[str, Mapping[str, float]] = field(default_factory=_kinds)
    irregularity: Mapping[str, Distribution] = field(default_factory=_irregularity)
    volume_factor: Mapping[str, Distribution] = field(default_factory=_volumes)
    thickness_factor: Distribution = (1.0, 0.08, 0.75, 1.3)
    tilt_deg: Distribution = (0.0, 6.0, 0.0, 20.0)

    def __post_init__(self) -> None:
        for day in self.days:
            storage_fractions(8 if day is None else day, drop_day=self.drop_day)
        if not self.days:
            raise UserError("blood.storage_day: the list is empty; give days, or null")
        if len({f"{day or 0:02g}" for day in self.days}) < len(self.days):
            raise UserError(f"blood.storage_day: {list(self.days)} names a day twice")
        _check_types("composition", self.composition)
        check_fractions("blood.composition", self.composition)
        for name in ("mixture_sd", "ageing_sd"):
            if getattr(self, name) < 0:
                raise UserError(f"blood.{name}: {getattr(self, name)} must not be negative")
        at_wavelength(self.alpha_dl_g, 0.5, "blood.alpha_dl_g")
        for name in ("donor_mcv_fl", "donor_rdw_percent", "donor_mchc_g_dl", "hemoglobin_cv_percent"):
            check_distribution(f"blood.{name}", getattr(self, name))
        for name in ("thickness_factor", "tilt_deg"):
            check_distribution(f"blood.{name}", getattr(self, name))
        for name in ("irregularity", "volume_factor", "kinds"):
            _check_types(name, getattr(self, name))
        for type_name in TYPE_NAMES:
            check_distribution(f"blood.irregularity.{type_name}", self.irregularity[type_name])
            check_distribution(f"blood.volume_factor.{type_name}", self.volume_factor[type_name])
            shares = self.kinds[type_name]
            if unknown := set(shares) - set(RED_KINDS):
                raise UserError(f"blood.kinds.{type_name}: unknown {sorted(unknown)}; kinds are {', '.join(RED_KINDS)}")
            check_fractions(f"blood.kinds.{type_name}", shares)

    @property
    def days(self) -> tuple[float | None, ...]:
        """Days of storage of each donor's bags; a single None without days."""
        return self.storage_day if isinstance(self.storage_day, tuple) else (self.storage_day,)

    def fractions(self, day: float | None) -> dict[str, float]:
        """Mean share of each type at a day."""
        if day is None:
            total = sum(self.composition.values())
            return {name: self.composition[name] / total for name in TYPE_NAMES}
        return storage_fractions(day, drop_day=self.drop_day)


def _check_types(name: str, values: Mapping[str, Any]) -> None:
    if set(values) != set(TYPE_NAMES):
        raise UserError(f"blood.{name}: give a value for each of {', '.join(TYPE_NAMES)}")


@dataclass(frozen=True, kw_only=True)
class BloodBag:
    """Blood of one donor at one day.

    Attributes:
        mcv_fl, rdw_percent, mchc_g_dl, hemoglobin_cv_percent: of the donor's discocytes.
        fractions: share of each type, in the order of ``TYPE_NAMES``.
    """

    mcv_fl: float
    rdw_percent: float
    mchc_g_dl: float
    hemoglobin_cv_percent: float
    fractions: tuple[float, ...]


def draw_bag(
    donor_rng: np.random.Generator, bag_rng: np.random.Generator, settings: StoredBloodSettings, day: float | None
) -> BloodBag:
    """A bag: the donor's cells and the speed of ageing by ``donor_rng``, the same for all of the donor's bags, its
    mixture by ``bag_rng``."""
    cells = {
        "mcv_fl": draw(donor_rng, settings.donor_mcv_fl),
        "rdw_percent": draw(donor_rng, settings.donor_rdw_percent),
        "mchc_g_dl": draw(donor_rng, settings.donor_mchc_g_dl),
        "hemoglobin_cv_percent": draw(donor_rng, settings.hemoglobin_cv_percent),
    }
    speed = math.exp(settings.ageing_sd * donor_rng.standard_normal())
    aged = None if day is None else min(day * speed, LAST_DAY)
    shares = np.array(list(settings.fractions(aged).values()))
    shares = shares * np.exp(settings.mixture_sd * bag_rng.standard_normal(len(shares)))
    return BloodBag(**cells, fractions=tuple((shares / shares.sum()).tolist()))


def draw_stored_cell(
    rng: np.random.Generator, type_name: str, bag: BloodBag, settings: StoredBloodSettings, *, wavelength_um: float
) -> Cell:
    """A red cell of the named type; its ``class_name`` is the type."""
    disc_fl = draw(rng, around(bag.mcv_fl, bag.rdw_percent))
    hemoglobin_pg = 0.01 * disc_fl * draw(rng, around(bag.mchc_g_dl, bag.hemoglobin_cv_percent))
    volume = disc_fl * draw(rng, settings.volume_factor[type_name])
    shares = settings.kinds[type_name]
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    return red_cell(
        rng,
        names[int(rng.choice(len(names), p=weights / weights.sum()))],
        volume,
        100 * hemoglobin_pg / volume,
        class_name=type_name,
        irregularity=draw(rng, settings.irregularity[type_name]),
        thickness_factor=draw(rng, settings.thickness_factor),
        alpha_dl_g=at_wavelength(settings.alpha_dl_g, wavelength_um),
    )


def draw_lean_rad(rng: np.random.Generator, settings: StoredBloodSettings) -> float:
    """Lean of a settled cell away from the optical axis."""
    return math.radians(draw(rng, settings.tilt_deg))
