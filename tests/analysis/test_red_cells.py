"""Measured cells against shapes whose size, optical volume and dry mass have closed forms."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.analysis.red_cells import MEASURES, measure_red_cells
from hemolens.errors import UserError
from hemolens.optics.cells import Pose, red_cell, render

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]
PIXEL_UM, WAVELENGTH_UM = 0.144, 0.666
SCALE = {"pixel_um": PIXEL_UM, "wavelength_um": WAVELENGTH_UM}
WAVE = 2 * math.pi / WAVELENGTH_UM


def ellipse(size: tuple[int, int], at: tuple[float, float], axes: tuple[float, float]) -> NDArray[np.bool_]:
    y, x = np.mgrid[: size[0], : size[1]]
    inside: NDArray[np.bool_] = ((y - at[0]) / axes[0]) ** 2 + ((x - at[1]) / axes[1]) ** 2 <= 1
    return inside


def measured(phase: NDArray[Any], mask: NDArray[Any], kind: int = 1, **options: Any) -> dict[str, Any]:
    """The one cell of a mask."""
    classes = (mask > 0).astype(np.uint8) * np.uint8(kind)
    (cell,) = measure_red_cells(phase, classes, (mask > 0).astype(np.int32), NAMES, **(SCALE | options))
    return cell


def numbers(cell: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in cell.items() if isinstance(value, int | float)}


def thickness_phase(side: int, thickness_um: Any, contrast: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Phase of a body of revolution around the middle, and where it is."""
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * PIXEL_UM
    thickness = thickness_um(np.hypot(y, x))
    return WAVE * contrast * thickness, thickness > 0


def evans_fung(radius_um: Any) -> Any:
    """Thickness of the mean cell in um (Evans and Fung 1972, 300 mOsm)."""
    q = np.minimum((radius_um / 3.91) ** 2, 1)
    return np.sqrt(1 - q) * (0.81 + 7.83 * q - 4.39 * q**2)


def ball(radius_um: float) -> Any:
    return lambda r: 2 * np.sqrt(np.maximum(radius_um**2 - r**2, 0))


def test_a_disc_of_one_phase() -> None:
    radius = 27.0
    mask = ellipse((100, 120), (48, 55), (radius, radius))
    cell = measured(np.where(mask, 2.5, 0.0), mask, kind=2, probability=np.where(mask, 0.8, 0.1))
    assert list(cell) == list(MEASURES)
    area = math.pi * radius**2
    assert cell["type"] == "spherocyte" and cell["cell"] == 1 and cell["cut"] == 0
    assert (cell["x_px"], cell["y_px"]) == pytest.approx((55, 48))
    assert cell["area_px"] == mask.sum() == pytest.approx(area, rel=0.005)
    assert cell["area_um2"] == pytest.approx(area * PIXEL_UM**2, rel=0.005)
    assert cell["equivalent_diameter_um"] == pytest.approx(2 * radius * PIXEL_UM, rel=0.003)
    volume = 2.5 / WAVE * mask.sum() * PIXEL_UM**2
    assert cell["optical_volume_um3"] == pytest.approx(volume)
    assert cell["dry_mass_pg"] == pytest.approx(volume / 0.19) and cell["alpha_um3_pg"] == 0.19
    assert cell["projected_circularity"] == pytest.approx(1, abs=0.03)
    assert cell["center_rim_ratio"] == pytest.approx(1)
    assert cell["mean_phase_rad"] == cell["max_phase_rad"] == pytest.approx(2.5)
    assert cell["probability"] == pytest.approx(0.8)
    heavier = measured(np.where(mask, 2.5, 0.0), mask, alpha_um3_pg=0.18)
    assert heavier["dry_mass_pg"] == pytest.approx(volume / 0.18) and heavier["alpha_um3_pg"] == 0.18


def test_an_ellipse_is_less_round() -> None:
    a, b = 40.0, 16.0
    mask = ellipse((120, 120), (60, 58), (b, a))
    cell = measured(np.where(mask, 1.0, 0.0), mask)
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))  # Ramanujan 1914
    assert cell["projected_circularity"] == pytest.approx(4 * math.pi * math.pi * a * b / perimeter**2, rel=0.05)
    assert cell["equivalent_diameter_um"] == pytest.approx(2 * math.sqrt(a * b) * PIXEL_UM, rel=0.01)


@pytest.mark.parametrize("mchc_g_dl", [30.0, 35.0])
def test_dry_mass_of_evans_and_fungs_cell(mchc_g_dl: float) -> None:
    # the cell's index is above the medium's by alpha C; C is in g/dL, alpha of 0.19 um^3/pg is 0.0019 dL/g
    phase, mask = thickness_phase(81, evans_fung, 0.0019 * mchc_g_dl)
    cell = measured(phase, mask)
    r = (np.arange(20000) + 0.5) * (3.91 / 20000)
    volume_fl = float((2 * math.pi * r * evans_fung(r)).sum() * 3.91 / 20000)
    assert volume_fl == pytest.approx(94, abs=0.2)
    assert cell["optical_volume_um3"] == pytest.approx(0.0019 * mchc_g_dl * volume_fl, rel=0.005)
    assert cell["dry_mass_pg"] == pytest.approx(mchc_g_dl / 100 * volume_fl, rel=0.005)
    assert cell["area_um2"] == pytest.approx(math.pi * 3.91**2, rel=0.01)
    assert cell["max_phase_rad"] == pytest.approx(WAVE * 0.0019 * mchc_g_dl * 2.57, rel=0.02)
    assert 0.3 < cell["center_rim_ratio"] < 0.7  # 0.81 to 1.2 um in the pallor, 2.2 um at the rim


def test_profiles_tell_discs_from_balls() -> None:
    radius = 2.8
    phase, mask = thickness_phase(61, ball(radius), 0.0019 * 33.5)
    cell = measured(phase, mask)
    assert cell["dry_mass_pg"] == pytest.approx(0.335 * 4 / 3 * math.pi * radius**3, rel=0.01)
    # of a ball 2 sqrt(R^2 - r^2) over the distance from the edge R - r: the means over both rings, by numbers
    depth = np.linspace(0, 1, 20001)
    chord, weight = np.sqrt(1 - (1 - depth) ** 2), 1 - depth
    center, rim = (
        (chord * weight)[(depth >= low) & (depth <= high)].sum() / weight[(depth >= low) & (depth <= high)].sum()
        for low, high in ((0.8, 1.0), (0.2, 0.5))
    )
    assert cell["center_rim_ratio"] == pytest.approx(center / rim, rel=0.05) and center / rim > 1.2
    dimpled = measured(*thickness_phase(81, evans_fung, 0.06))
    assert dimpled["center_rim_ratio"] < 1 < cell["center_rim_ratio"]
    assert dimpled["optical_volume_um3"] / dimpled["area_um2"] < cell["optical_volume_um3"] / cell["area_um2"]


@pytest.mark.parametrize("kind", ["discocyte", "spherocyte", "echinocyte_3", "stomatocyte"])
def test_dry_mass_is_the_simulated_hemoglobin(kind: str) -> None:
    cell = red_cell(np.random.default_rng(1), kind, 90.0, 33.0, irregularity=0.5, alpha_dl_g=0.0019)
    patch = render(cell, Pose(7.0, 7.0, 5.0, 0.1, 0.6, 0.3), (0.1, PIXEL_UM, PIXEL_UM))
    phase = WAVE * 0.1 * patch.contrast.sum(axis=0, dtype=float)  # the optical path of each column
    found = measured(np.pad(phase, 5), np.pad(phase > 0, 5))
    assert found["dry_mass_pg"] == pytest.approx(cell.hemoglobin_pg, rel=0.01)


def test_the_background_is_zero_by_definition() -> None:
    phase, mask = thickness_phase(61, ball(2.8), 0.06)
    noise = np.random.default_rng(0).normal(0, 0.01, phase.shape)
    plain = measured(phase + noise, mask)
    for offset in (-3.0, 0.7):
        assert numbers(measured(phase + noise + offset, mask)) == pytest.approx(numbers(plain), rel=1e-6)


def test_cells_apart_and_their_types() -> None:
    masks = [ellipse((90, 140), at, (12, 12)) for at in ((20, 30), (60, 80), (60, 104), (4, 120))]
    instances, classes = np.zeros((90, 140), np.int32), np.zeros((90, 140), np.uint8)
    phase = np.zeros((90, 140))
    for number, (mask, kind) in enumerate(zip(masks, (1, 2, 3, 4), strict=True)):
        instances[mask], classes[mask], phase[mask] = 10 * (number + 1), kind, number + 1
    classes[masks[1] & (np.arange(140) < 76)] = 4  # a third of a cell says something else
    classes[18:22, 28:32] = 0  # a hole
    cells = measure_red_cells(phase, classes, instances, NAMES, **SCALE)
    assert [cell["cell"] for cell in cells] == [10, 20, 30, 40]
    assert [cell["type"] for cell in cells] == NAMES[1:]
    assert [cell["cut"] for cell in cells] == [0, 0, 0, 1]
    assert [cell["mean_phase_rad"] for cell in cells] == pytest.approx([1, 2, 3, 4])
    assert [cell["area_px"] for cell in cells] == [int((instances == n).sum()) for n in (10, 20, 30, 40)]
    assert cells[0]["probability"] is None
    assert measure_red_cells(phase, 0 * classes, 0 * instances, NAMES) == []


@pytest.mark.parametrize("edge", ["top", "left", "bottom", "right"])
def test_cut_at_every_border(edge: str) -> None:
    at = {"top": (5, 40), "left": (40, 5), "bottom": (74, 40), "right": (40, 74)}[edge]
    mask = ellipse((80, 80), at, (12, 12))
    assert measured(mask * 1.0, mask)["cut"] == 1
    inside = ellipse((80, 80), tuple(min(max(value, 13), 66) for value in at), (12, 12))  # type: ignore[arg-type]
    assert measured(inside * 1.0, inside)["cut"] == 0


def test_without_a_scale_there_are_pixels_alone() -> None:
    mask = ellipse((80, 80), (40, 40), (12, 12))
    known = {"area_um2", "equivalent_diameter_um"}
    physical = known | {"optical_volume_um3", "dry_mass_pg", "alpha_um3_pg"}
    cell = measured(mask * 1.0, mask, pixel_um=None, wavelength_um=None)
    assert {name for name, value in cell.items() if value is None} == physical | {"probability"}
    assert cell["area_px"] == mask.sum() and cell["mean_phase_rad"] == 1
    cell = measured(mask * 1.0, mask, wavelength_um=None)
    assert {name for name, value in cell.items() if value is None} == physical - known | {"probability"}


def test_the_smallest_cells() -> None:
    for shape in ((1, 1), (1, 5), (3, 3)):
        mask = np.zeros((20, 20), bool)
        mask[4 : 4 + shape[0], 6 : 6 + shape[1]] = True
        cell = measured(mask * 2.0, mask)
        assert cell["area_px"] == math.prod(shape) and cell["mean_phase_rad"] == 2
        assert cell["projected_circularity"] is None or cell["projected_circularity"] > 0
    flat = measured(np.zeros((20, 20)), mask)
    assert flat["center_rim_ratio"] is None and flat["dry_mass_pg"] == 0


def test_turning_an_image_turns_places_alone() -> None:
    rng = np.random.default_rng(2)
    mask = ndimage.gaussian_filter(rng.normal(size=(70, 90)), 6) > 0.03
    labels, _ = ndimage.label(mask)
    phase = np.where(mask, ndimage.gaussian_filter(rng.normal(size=mask.shape), 2), 0)
    classes = (labels > 0).astype(np.uint8)
    plain = {cell["cell"]: cell for cell in measure_red_cells(phase, classes, labels, NAMES, **SCALE)}
    turned = measure_red_cells(*(np.rot90(part) for part in (phase, classes, labels)), NAMES, **SCALE)
    assert len(turned) == len(plain) > 2
    for cell in turned:
        before = plain[cell["cell"]]
        assert (cell["x_px"], cell["y_px"]) == pytest.approx((before["y_px"], 89 - before["x_px"]))
        same = [{name: row[name] for name in MEASURES if name not in ("x_px", "y_px")} for row in (cell, before)]
        assert numbers(same[0]) == pytest.approx(numbers(same[1]), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"alpha_um3_pg": 0.0}, "positive number, e.g. 0.19"), ({"alpha_um3_pg": math.nan}, "alpha_um3_pg=nan")],
)
def test_slips(changes: dict[str, float], words: str) -> None:
    mask = np.ones((4, 4), bool)
    with pytest.raises(UserError, match=words):
        measured(mask * 1.0, mask, **changes)
    with pytest.raises(UserError, match="sizes differ"):
        measure_red_cells(mask * 1.0, mask[:2].astype(int), mask.astype(int), NAMES)
