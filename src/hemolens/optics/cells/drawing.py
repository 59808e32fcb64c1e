"""Draw donors and their cells."""

import math
from dataclasses import dataclass

import numpy as np

from hemolens.errors import UserError
from hemolens.optics.cells.cell import Cell, Component
from hemolens.optics.cells.settings import BloodSettings, PlateletSettings, RedCellSettings, draw
from hemolens.optics.cells.shapes import BiconcaveDisc, Ellipsoid
from hemolens.optics.cells.white import draw_white_cell


@dataclass(frozen=True)
class Donor:
    """Red cell indices of one blood sample.

    Attributes:
        mcv_fl: mean volume of its RBC.
        rdw_percent: coefficient of variation of that volume.
        mchc_g_dl: mean hemoglobin concentration.
        hemoglobin_cv_percent: coefficient of variation of that concentration from cell to cell.
    """

    mcv_fl: float
    rdw_percent: float
    mchc_g_dl: float
    hemoglobin_cv_percent: float


def draw_donor(rng: np.random.Generator, settings: RedCellSettings) -> Donor:
    """A blood sample with its own MCV, RDW and MCHC."""
    return Donor(
        mcv_fl=draw(rng, settings.donor_mcv_fl),
        rdw_percent=draw(rng, settings.donor_rdw_percent),
        mchc_g_dl=draw(rng, settings.donor_mchc_g_dl),
        hemoglobin_cv_percent=draw(rng, settings.hemoglobin_cv_percent),
    )


def draw_cell(rng: np.random.Generator, class_name: str, donor: Donor, settings: BloodSettings) -> Cell:
    """A cell of the named class from the donor's blood."""
    if class_name == "PLT":
        return _draw_platelet(rng, settings.platelets)
    if class_name == "WBC":
        return draw_white_cell(rng, settings.white_cells)
    return _draw_red_cell(rng, class_name == "ARBC", donor, settings.red_cells)


def draw_tilt_rad(rng: np.random.Generator, cell: Cell, settings: BloodSettings) -> float:
    """Lean of the cell's axis away from the optical axis; a white cell is nearly round and stays upright."""
    if cell.class_name == "WBC":
        return 0.0
    tilt = settings.platelets.tilt_deg if cell.class_name == "PLT" else settings.red_cells.tilt_deg
    return math.radians(draw(rng, tilt))


def _draw_red_cell(rng: np.random.Generator, irregular: bool, donor: Donor, settings: RedCellSettings) -> Cell:
    volume = draw(rng, _around(donor.mcv_fl, donor.rdw_percent))
    if irregular:
        volume *= draw(rng, settings.arbc_volume_factor)
    of_donor = _around(donor.mchc_g_dl, donor.hemoglobin_cv_percent)
    concentration = draw(rng, settings.arbc_mchc_g_dl if irregular else of_donor)
    disc = BiconcaveDisc.from_volume(
        volume,
        thickness_factor=draw(rng, settings.thickness_factor),
        axis_ratio=draw(rng, settings.arbc_axis_ratio if irregular else settings.rbc_axis_ratio),
    )
    return Cell(
        class_name="ARBC" if irregular else "RBC",
        kind="elliptocyte" if irregular else "discocyte",
        volume_fl=volume,
        hemoglobin_pg=0.01 * concentration * volume,  # 1 g/dL = 0.01 pg/um^3
        components=(Component(disc, settings.alpha_dl_g * concentration),),
    )


def _draw_platelet(rng: np.random.Generator, settings: PlateletSettings) -> Cell:
    low, high = settings.diameter_um[-2:]
    for _ in range(1000):
        volume, aspect = draw(rng, settings.volume_fl), draw(rng, settings.aspect)
        radius = (0.75 * volume / (math.pi * aspect)) ** (1 / 3)
        if low <= 2 * radius <= high:
            break
    else:
        raise UserError(
            f"platelets: volume_fl {list(settings.volume_fl)} and aspect {list(settings.aspect)} give no "
            f"diameter in [{low}, {high}] um: widen diameter_um"
        )
    shape = Ellipsoid((radius, radius, radius * aspect))
    return Cell("PLT", "platelet", volume, 0.0, (Component(shape, draw(rng, settings.delta_n)),))


def _around(mean: float, cv_percent: float) -> tuple[float, float, float, float]:
    """Normal distribution with that coefficient of variation, cut off at three standard deviations."""
    sd = mean * cv_percent / 100
    return mean, sd, mean - 3 * sd, mean + 3 * sd
