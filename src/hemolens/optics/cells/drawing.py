"""Draw blood samples, their cells, and what annotators call them."""

import math
from dataclasses import dataclass

import numpy as np

from hemolens.errors import UserError
from hemolens.optics.cells.cell import CLASS_NAMES, Cell, Component
from hemolens.optics.cells.red import red_solid
from hemolens.optics.cells.settings import RED_KINDS, BloodSettings, PlateletSettings, at_wavelength, draw
from hemolens.optics.cells.solids import Ellipsoid
from hemolens.optics.cells.white import draw_white_cell


@dataclass(frozen=True, kw_only=True)
class BloodSample:
    """A blood sample: red cell indices and mixture of classes.

    Attributes:
        mcv_fl: mean volume of its RBC.
        rdw_percent: coefficient of variation of that volume.
        mchc_g_dl: mean hemoglobin concentration.
        hemoglobin_cv_percent: coefficient of variation of that concentration from cell to cell.
        fractions: share of each class, in the order of ``CLASS_NAMES``.
    """

    mcv_fl: float
    rdw_percent: float
    mchc_g_dl: float
    hemoglobin_cv_percent: float
    fractions: tuple[float, ...]


def draw_sample(rng: np.random.Generator, settings: BloodSettings) -> BloodSample:
    """A sample with its own MCV, RDW, MCHC and mixture of classes."""
    red = settings.red_cells
    shares = np.array([settings.mixture[name] for name in CLASS_NAMES])
    shares *= np.exp(settings.mixture_sd * rng.standard_normal(len(shares)))
    return BloodSample(
        mcv_fl=draw(rng, red.sample_mcv_fl),
        rdw_percent=draw(rng, red.sample_rdw_percent),
        mchc_g_dl=draw(rng, red.sample_mchc_g_dl),
        hemoglobin_cv_percent=draw(rng, red.hemoglobin_cv_percent),
        fractions=tuple((shares / shares.sum()).tolist()),
    )


def draw_cell(
    rng: np.random.Generator,
    class_name: str,
    sample: BloodSample,
    settings: BloodSettings,
    *,
    wavelength_um: float = 0.45,
) -> Cell:
    """A cell of the named class from the sample; what hemoglobin does to light depends on the wavelength."""
    if class_name == "PLT":
        return _draw_platelet(rng, settings.platelets)
    if class_name == "WBC":
        return draw_white_cell(rng, settings.white_cells)
    red = settings.red_cells
    volume = draw(rng, around(sample.mcv_fl, sample.rdw_percent))
    concentration = draw(rng, around(sample.mchc_g_dl, sample.hemoglobin_cv_percent))
    kind, irregularity = red.rbc_kind, draw(rng, red.rbc_irregularity)
    if class_name == "ARBC":
        volume *= draw(rng, red.arbc_volume_factor)
        concentration = draw(rng, red.arbc_mchc_g_dl)
        shares = np.array([red.arbc_kinds.get(name, 0.0) for name in RED_KINDS])
        kind = RED_KINDS[int(rng.choice(len(shares), p=shares / shares.sum()))]
        irregularity = draw(rng, red.arbc_irregularity)
    thickness = draw(rng, red.thickness_factor)
    return red_cell(
        rng,
        kind,
        volume,
        concentration,
        class_name=class_name,
        irregularity=irregularity,
        thickness_factor=thickness,
        alpha_dl_g=at_wavelength(red.alpha_dl_g, wavelength_um),
        absorption_dl_g=at_wavelength(red.absorption_dl_g, wavelength_um),
    )


def red_cell(
    rng: np.random.Generator,
    kind: str,
    volume_fl: float,
    concentration_g_dl: float,
    *,
    class_name: str = "RBC",
    irregularity: float = 0.0,
    thickness_factor: float = 1.0,
    alpha_dl_g: float = 0.0019,
    absorption_dl_g: float = 0.0,
) -> Cell:
    """A red cell of a kind, volume (fL) and hemoglobin concentration (g/dL).

    Raises:
        UserError: an unknown kind.
    """
    solid = red_solid(rng, kind, volume_fl, irregularity=irregularity, thickness_factor=thickness_factor)
    return Cell(
        class_name=class_name,
        kind=kind,
        volume_fl=volume_fl,
        hemoglobin_pg=0.01 * concentration_g_dl * volume_fl,  # 1 g/dL = 0.01 pg/um^3
        irregularity=irregularity,
        components=(Component(solid, alpha_dl_g * concentration_g_dl, delta_k=absorption_dl_g * concentration_g_dl),),
    )


def annotate(rng: np.random.Generator, cell: Cell, settings: BloodSettings) -> tuple[str, ...]:
    """The class that each annotator gives the cell: a red cell is ARBC from the annotator's own threshold on."""
    if cell.class_name not in ("RBC", "ARBC"):
        return (cell.class_name,) * len(settings.annotator_thresholds)
    read = cell.irregularity + settings.annotator_sd * rng.standard_normal(len(settings.annotator_thresholds))
    return tuple(
        "ARBC" if seen > threshold else "RBC"
        for seen, threshold in zip(read, settings.annotator_thresholds, strict=True)
    )


def majority(labels: tuple[str, ...]) -> str:
    """The class that most annotators gave."""
    return max(sorted(set(labels)), key=labels.count)


def draw_tilt_rad(rng: np.random.Generator, cell: Cell, settings: BloodSettings) -> float:
    """Lean of the cell's axis away from the optical axis; a white cell is nearly round and stays upright."""
    if cell.class_name == "WBC":
        return 0.0
    tilt = settings.platelets.tilt_deg if cell.class_name == "PLT" else settings.red_cells.tilt_deg
    return math.radians(draw(rng, tilt))


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
    shape = Ellipsoid(semi_axes_um=(radius, radius, radius * aspect))
    body = Component(shape, draw(rng, settings.delta_n))
    return Cell(class_name="PLT", kind="platelet", volume_fl=volume, components=(body,))


def around(mean: float, cv_percent: float) -> tuple[float, float, float, float]:
    """Normal distribution with that coefficient of variation, cut off at three standard deviations."""
    sd = mean * cv_percent / 100
    return mean, sd, mean - 3 * sd, mean + 3 * sd
