"""Beads in tomograms: voxel and index come back, also with the missing cone where the apertures are known."""

from pathlib import Path

import numpy as np
import pytest

from hemolens.analysis.bead_volumes import measure_volume_beads, seen_by
from hemolens.analysis.beads import Bead
from hemolens.errors import UserError
from hemolens.io.volumes import RIArray, Volume
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram

from .beads import ball

BEAD = Bead(diameter_um=5.0, refractive_index=1.40, medium_index=1.337)
VOXEL_UM = (0.731, 0.162, 0.162)


def volume(index: np.ndarray, voxel_um: tuple[float, float, float] = VOXEL_UM) -> Volume:
    array = RIArray(np.asarray(index, np.float32), "bead.npy")
    return Volume(array=array, voxel_um=voxel_um, medium_index=1.337, wavelength_um=0.45, path=Path("bead.npy"))


def noisy(contrast: float = BEAD.contrast, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 1.337 + offset + ball((24, 100, 96), VOXEL_UM, 5.0, contrast) + rng.normal(0, 5e-4, (24, 100, 96))


@pytest.mark.parametrize("contrast", [0.063, -0.04])
def test_diameters_voxel_and_index_come_back(contrast: float) -> None:
    bead = Bead(diameter_um=5.0, refractive_index=1.337 + contrast, medium_index=1.337)
    stated = (0.731 * 1.05, 0.162 * 0.97, 0.162)
    (fit,) = measure_volume_beads(volume(noisy(0.9 * contrast, 0.002), stated), bead)
    assert [fit.row[f"diameter_{axis}_um"] for axis in "zyx"] == pytest.approx([5.25, 4.85, 5.0], rel=0.004)
    assert [fit.row[f"voxel_{axis}_um"] for axis in "zyx"] == pytest.approx(VOXEL_UM, rel=0.004)
    assert fit.row["ri_scale"] == pytest.approx(0.9, rel=0.01)
    assert fit.row["ri_offset"] == pytest.approx(0.002, abs=1e-4)
    assert fit.row["ri_core"] == pytest.approx(1.339 + 0.9 * contrast, abs=2e-4)
    assert fit.image.shape == fit.model.shape
    assert fit.unit == "RI"


def test_the_missing_cone_is_reckoned_with() -> None:
    """Seen through apertures of 0.72 and 0.95 the bead is long and pale; what is known of them gives the voxel back."""
    settings = TomographySettings(voxel_um=VOXEL_UM, slices=32, noise_ri=3e-4, background_ri=1e-4)
    dz, dy, dx = settings.fine_voxel_um
    fine = ball((settings.fine_depth, 128, 128), (dz, dy, dx), 5.0, BEAD.contrast).astype(np.float32)
    limited = band_limit_axially(fine, settings.axial_oversampling)
    seen = form_tomogram(np.random.default_rng(0), limited, settings)
    (raw,) = measure_volume_beads(volume(seen), BEAD)
    assert raw.row["diameter_z_um"] > 1.3 * 5.0
    assert raw.row["ri_scale"] < 0.8
    apertures = {"condenser_na": settings.condenser_na, "objective_na": settings.objective_na, "wavelength_um": 0.45}
    stated = (0.731, 0.162 * 1.03, 0.162 * 1.03)
    (fit,) = measure_volume_beads(volume(seen, stated), BEAD, apparent=seen_by(BEAD, VOXEL_UM, **apertures))
    print({name: round(value, 4) for name, value in fit.row.items() if name.startswith(("voxel", "ri_"))})
    assert [fit.row[f"voxel_{axis}_um"] for axis in "zyx"] == pytest.approx(VOXEL_UM, rel=0.03)
    assert fit.row["ri_scale"] == pytest.approx(1, abs=0.03)
    assert fit.row["ri_offset"] == pytest.approx(0, abs=5e-4)


def test_an_empty_volume_says_so() -> None:
    empty = 1.337 + np.random.default_rng(0).normal(0, 5e-4, (12, 60, 60))
    with pytest.raises(UserError, match="no bead found"):
        measure_volume_beads(volume(empty), BEAD)
