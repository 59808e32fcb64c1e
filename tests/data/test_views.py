"""Projections and norms of tomograms, by arithmetic on a volume of eight voxels."""

from pathlib import Path

import numpy as np
import pytest

from hemolens.data.planes import PLANES, planes_of
from hemolens.data.views import CHANNELS, RI_WINDOW, TomogramView
from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, Volume

# slices of 2 x 2; the second has the larger variance
INDEX = np.array([[[1.34, 1.34], [1.34, 1.34]], [[1.34, 1.38], [1.34, 1.36]], [[1.33, 1.35], [1.34, 1.34]]], np.float32)
MEDIUM = 1.34
PICTURES = {
    "maximum": [[1.34, 1.38], [1.34, 1.36]],
    "mean": [[4.01 / 3, 4.07 / 3], [1.34, 4.04 / 3]],
    "focus": [[1.34, 1.38], [1.34, 1.36]],
}


def volume_of(index: np.ndarray = INDEX) -> Volume:
    return Volume(
        array=RIArray(index, "made up"),
        voxel_um=(0.7, 0.2, 0.2),
        medium_index=MEDIUM,
        wavelength_um=None,
        path=Path("made up"),
    )


def stretched(picture: list, low: float, high: float) -> np.ndarray:
    return np.clip((np.array(picture) - low) / (high - low), 0, 1)


def test_planes_keep_what_every_view_needs() -> None:
    planes = planes_of(volume_of())
    for name in PLANES:
        assert planes.values(name) == pytest.approx(np.array(PICTURES[name]), abs=1e-6)
    assert planes.volume_range == pytest.approx((1.33, 1.38))
    assert planes.medium_index == MEDIUM
    assert planes.ranges == pytest.approx(np.array([[1.34, 1.38], [4.01 / 3, 4.07 / 3], [1.34, 1.38]]))


@pytest.mark.parametrize("projection", [name for name in CHANNELS if name != "phase"])
def test_each_norm(projection: str) -> None:
    planes = planes_of(volume_of())
    names = ("maximum", "mean", "focus") if projection == "max_mean_focus" else (projection,)
    own = {"maximum": (1.34, 1.38), "mean": (4.01 / 3, 4.07 / 3), "focus": (1.34, 1.38)}
    limits = {
        "minmax_projection": own,
        "minmax_volume": dict.fromkeys(own, (1.33, 1.38)),
        "ri_window": dict.fromkeys(own, (MEDIUM + 0.005, MEDIUM + 0.025)),  # cuts off below and above
    }
    for norm, low_high in limits.items():
        view = TomogramView(projection=projection, norm=norm, ri_window=(0.005, 0.025))
        expected = [stretched(PICTURES[name], *low_high[name]) for name in names]
        seen = view.see(planes)
        assert seen.dtype == np.float32 and seen.shape == (len(names), 2, 2)
        assert seen == pytest.approx(np.array(expected), abs=1e-4)
        assert view.see(planes, window=(slice(1, 2), slice(0, 2))) == pytest.approx(seen[:, 1:])


def test_phase_is_the_mean_stretched() -> None:
    planes = planes_of(volume_of())
    assert (TomogramView(projection="phase").see(planes) == TomogramView(projection="mean").see(planes)).all()
    for norm in ("minmax_volume", "ri_window"):
        with pytest.raises(UserError, match=r"in rad: choose norm=minmax_projection, or projection=mean"):
            TomogramView(projection="phase", norm=norm)


def test_a_part_is_shown_in_another_tomogram() -> None:
    """In the other's stretch equal refractive indices are equally bright, whatever the part's own range was."""
    planes, view = planes_of(volume_of()), TomogramView()
    seen = view.see(planes, limits=[(1.36, 1.4)])
    assert seen[0] == pytest.approx(np.array([[0.0, 0.5], [0.0, 0.0]]), abs=1e-4)


def test_an_even_volume_is_black() -> None:
    planes = planes_of(volume_of(np.full((3, 2, 2), 1.337, np.float32)))
    for norm in ("minmax_projection", "minmax_volume"):
        assert not TomogramView(projection="max_mean_focus", norm=norm).see(planes).any()


def test_default_window_holds_the_cells_that_are_simulated() -> None:
    """Hemoglobin of 0.0019 dL/g at 37 g/dL, and granules above the densest cytoplasm but for a few."""
    assert RI_WINDOW[0] <= -4 * 5e-4 and RI_WINDOW[1] > 37 * 0.0019 and RI_WINDOW[1] >= 0.038 + 0.04
