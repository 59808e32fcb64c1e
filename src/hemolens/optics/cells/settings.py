"""What blood a simulation draws from: distributions of samples and cells.

A distribution is a list of numbers: ``[low, high]`` is uniform; ``[mean, sd, low, high]`` is a normal one cut
off at low and high. The defaults carry their source; [choice] marks values that no source fixes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hemolens.errors import UserError
from hemolens.optics.cells.cell import CLASS_NAMES

Distribution = Sequence[float]
#: A number for all wavelengths, or pairs [wavelength_um, value] between which values are interpolated.
Spectrum = float | Sequence[Sequence[float]]

#: Kinds of red cells; see :func:`hemolens.optics.cells.red.red_solid`.
RED_KINDS = (
    "discocyte",
    "elliptocyte",
    "teardrop",
    "target",
    "fragment",
    "crenated",
    "folded",
    "spherocyte",
    "stomatocyte",
    "echinocyte_1",
    "echinocyte_2",
    "echinocyte_3",
    "sphero_echinocyte",
    "kuchel_disc",
)

# Cells of each class in paper A, Table 1 (115,143 in all).
TABLE_1_COUNTS = {"RBC": 96_860, "PLT": 9_142, "WBC": 124, "ARBC": 9_017}


def draw(rng: np.random.Generator, distribution: Distribution) -> float:
    """One value from ``[low, high]`` or ``[mean, sd, low, high]``."""
    if len(distribution) == 2:
        return float(rng.uniform(distribution[0], distribution[1]))
    mean, sd, low, high = distribution
    while True:
        value = float(rng.normal(mean, sd))
        if low <= value <= high:
            return value


def at_wavelength(spectrum: Spectrum, wavelength_um: float, name: str = "spectrum") -> float:
    """Value of a spectrum; outside its points that of the nearest one.

    Raises:
        UserError: neither a number nor pairs with rising wavelengths.
    """
    if isinstance(spectrum, int | float):
        return float(spectrum)
    points = [tuple(float(value) for value in point) for point in spectrum]
    wavelengths = [point[0] for point in points]
    if not points or any(len(point) != 2 for point in points) or wavelengths != sorted(set(wavelengths)):
        raise UserError(f"{name}: give a number, or [[wavelength_um, value], ...] with rising wavelengths")
    return float(np.interp(wavelength_um, wavelengths, [point[1] for point in points]))


def check_distribution(name: str, distribution: Distribution) -> None:
    """Raise a UserError unless the numbers are a distribution that can be drawn from."""
    ordered = len(distribution) in (2, 4) and distribution[-2] <= distribution[-1]
    if not ordered:
        raise UserError(f"{name}: {list(distribution)} is neither [low, high] nor [mean, sd, low, high]")
    if len(distribution) == 4:
        mean, sd, low, high = distribution
        # Rejection sampling must find a value soon: the interval needs a fair share of the normal.
        if sd < 0 or low > mean + 2 * sd or high < mean - 2 * sd:
            raise UserError(f"{name}: [{low}, {high}] is over 2 sd away from the mean {mean} (sd {sd})")


@dataclass(frozen=True, kw_only=True)
class RedCellSettings:
    """Red cells: haematology of blood samples; discocytes (RBC) and irregular cells (ARBC).

    An irregularity u from 0 (a round disc) to 1 says how far a cell's shape departs from the disc, whatever its kind;
    what each kind makes of it stands in :mod:`hemolens.optics.cells.red`.
    """

    # Samples. MCV spread as in the patients of the index study [choice]; volunteers span 63 to 99.5 fL
    # (Gienger 2019).
    sample_mcv_fl: Distribution = (88.0, 8.5, 63.0, 110.0)
    sample_rdw_percent: Distribution = (12.1, 15.7)  # CV of cell volume; Gienger 2019, Table 1
    sample_mchc_g_dl: Distribution = (33.5, 1.3, 30.0, 37.0)  # volunteers: 32.4 to 35.2 (Gienger 2019)
    hemoglobin_cv_percent: Distribution = (3.5, 6.4)  # of the concentration, cell to cell; Gienger 2019
    alpha_dl_g: Spectrum = 0.0019  # refractive index increment; the simulator's truth, not the analysis constant
    absorption_dl_g: Spectrum = 0.0  # imaginary part of the index for 1 g/dL
    thickness_factor: Distribution = (1.0, 0.08, 0.75, 1.3)  # [choice]
    rbc_kind: str = "discocyte"  # what RBC are; kuchel_disc tests a method on another shape
    rbc_irregularity: Distribution = (0.0, 0.067)  # length over width up to 1.08 [choice]
    arbc_irregularity: Distribution = (0.125, 1.0)  # elliptocytes from 1.15 to 2.2 [choice]
    arbc_kinds: Mapping[str, float] = field(  # shares [choice]
        default_factory=lambda: {
            "elliptocyte": 0.35,
            "teardrop": 0.12,
            "target": 0.12,
            "fragment": 0.10,
            "crenated": 0.08,
            "folded": 0.05,
            "spherocyte": 0.08,
            "stomatocyte": 0.05,
            "echinocyte_3": 0.05,
        }
    )
    arbc_volume_factor: Distribution = (0.45, 0.95)  # paper A, Fig. 5, finds ARBC smaller; amount [choice]
    arbc_mchc_g_dl: Distribution = (33.0, 2.0, 27.0, 39.0)  # [choice]
    tilt_deg: Distribution = (0.0, 8.0, 0.0, 25.0)  # half normal: settled cells lie nearly flat [choice]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("alpha_dl_g", "absorption_dl_g"):
                at_wavelength(value, 0.5, f"red_cells.{name}")
            elif name not in ("arbc_kinds", "rbc_kind"):
                check_distribution(f"red_cells.{name}", value)
        for name in ("rbc_irregularity", "arbc_irregularity"):
            if getattr(self, name)[-2] < 0 or getattr(self, name)[-1] > 1:
                raise UserError(f"red_cells.{name}: {list(getattr(self, name))} is not within [0, 1]")
        if self.rbc_kind not in RED_KINDS:
            raise UserError(f"red_cells.rbc_kind: {self.rbc_kind}; kinds are {', '.join(RED_KINDS)}")
        unknown = set(self.arbc_kinds) - set(RED_KINDS)
        if unknown:
            raise UserError(f"red_cells.arbc_kinds: unknown {sorted(unknown)}; kinds are {', '.join(RED_KINDS)}")
        check_fractions("red_cells.arbc_kinds", self.arbc_kinds)


@dataclass(frozen=True, kw_only=True)
class PlateletSettings:
    """Platelets: homogeneous oblate spheroids (adequate optically: Kolesnikova 2008, Moskalensky 2013)."""

    # Volume, aspect and diameter hold together: pairs that give another diameter are drawn again. [choice]
    volume_fl: Distribution = (5.0, 12.0)
    aspect: Distribution = (0.3, 0.8)  # thickness over diameter
    diameter_um: Distribution = (2.0, 3.2)
    delta_n: Distribution = (0.038, 0.058)  # n 1.375 to 1.395 in a medium of 1.337 [choice]
    tilt_deg: Distribution = (0.0, 90.0)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_distribution(f"platelets.{name}", value)


@dataclass(frozen=True, kw_only=True)
class WhiteCellSettings:
    """White cells: a body with nucleus and granules (optical model of Orlova 2008 for neutrophils)."""

    kind_fractions: Mapping[str, float] = field(  # a healthy adult's differential count, rounded [choice]
        default_factory=lambda: {"neutrophil": 0.62, "lymphocyte": 0.30, "monocyte": 0.08}
    )
    neutrophil_diameter_um: Distribution = (9.0, 12.0)  # [choice]
    lymphocyte_diameter_um: Distribution = (7.0, 9.0)  # [choice]
    monocyte_diameter_um: Distribution = (12.0, 15.0)  # [choice]
    elongation: Distribution = (1.0, 1.12)  # length over width, volume kept [choice]
    cytoplasm_delta_n: Distribution = (0.023, 0.038)  # n 1.360 to 1.375 in a medium of 1.337 [choice]
    # Nuclei are optically thinner than cytoplasm (Steelman 2017, Schuermann 2017), against the common belief.
    nucleus_delta_n: Distribution = (-0.008, 0.002)  # relative to the cytoplasm
    granule_delta_n: Distribution = (0.02, 0.04)  # relative to the cytoplasm [choice]
    granule_diameter_um: Distribution = (0.3, 0.5)
    neutrophil_granules: Distribution = (150.0, 300.0)  # granules a cell [choice]
    monocyte_granules: Distribution = (30.0, 80.0)  # [choice]
    lymphocyte_granules: Distribution = (0.0, 10.0)  # [choice]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "kind_fractions":
                check_distribution(f"white_cells.{name}", value)
        unknown = set(self.kind_fractions) - {"neutrophil", "lymphocyte", "monocyte"}
        if unknown:
            raise UserError(f"white_cells.kind_fractions: unknown {sorted(unknown)}")
        check_fractions("white_cells.kind_fractions", self.kind_fractions)


@dataclass(frozen=True, kw_only=True)
class BloodSettings:
    """Mixture and cells of the blood that fields are drawn from.

    Args:
        class_fractions: share of each class; None takes paper A's Table 1 (RBC .841, PLT .079, WBC .0011,
            ARBC .078).
        wbc_fraction: raises (or lowers) the share of white cells and scales the other classes to make room.
        mixture_sd: standard deviation between samples of the logarithm of each class's share [choice].
        annotator_thresholds: irregularity from which each of the simulated annotators calls a red cell irregular; the
            majority's word is the label, as in paper A, where three experts annotated [choice].
        annotator_sd: standard deviation of what an annotator reads off a cell [choice].

    Raises:
        UserError: shares that do not add up to 1, an unknown class, or an impossible distribution.
    """

    class_fractions: Mapping[str, float] | None = None
    wbc_fraction: float | None = None
    mixture_sd: float = 0.25
    annotator_thresholds: tuple[float, ...] = (0.08, 0.095, 0.11)
    annotator_sd: float = 0.01
    red_cells: RedCellSettings = field(default_factory=RedCellSettings)
    platelets: PlateletSettings = field(default_factory=PlateletSettings)
    white_cells: WhiteCellSettings = field(default_factory=WhiteCellSettings)

    def __post_init__(self) -> None:
        if self.class_fractions is not None:
            if set(self.class_fractions) != set(CLASS_NAMES):
                raise UserError(f"class_fractions: give a share for each of {', '.join(CLASS_NAMES)}")
            check_fractions("class_fractions", self.class_fractions)
        if self.wbc_fraction is not None and not 0 <= self.wbc_fraction < 1:
            raise UserError(f"wbc_fraction: {self.wbc_fraction} is not in [0, 1)")
        if self.mixture_sd < 0 or self.annotator_sd < 0:
            raise UserError(f"mixture_sd {self.mixture_sd}, annotator_sd {self.annotator_sd}: must not be negative")
        if len(self.annotator_thresholds) % 2 == 0:
            raise UserError(f"annotator_thresholds: {list(self.annotator_thresholds)}: an odd number has a majority")

    @property
    def mixture(self) -> dict[str, float]:
        """Share of each class, in the order of the labels, adding up to 1."""
        shares = dict(self.class_fractions or TABLE_1_COUNTS)
        total = sum(shares.values())
        if self.wbc_fraction is None:
            return {name: shares[name] / total for name in CLASS_NAMES}
        others = total - shares["WBC"]
        scaled = {name: shares[name] / others * (1 - self.wbc_fraction) for name in CLASS_NAMES}
        return {**scaled, "WBC": self.wbc_fraction}


def check_fractions(name: str, fractions: Mapping[str, float]) -> None:
    """Raise a UserError unless the shares are non-negative and add up to 1 within 0.001."""
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-3:
        raise UserError(f"{name}: {dict(fractions)} must be shares that add up to 1")
