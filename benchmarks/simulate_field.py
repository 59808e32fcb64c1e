"""A simulated tomogram with twelve cells, against the two transforms that any linear model needs at least."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import fft

from benchmarks.harness import Comparison, Options, Side
from hemolens.optics.cells import BloodSettings, draw_sample
from hemolens.optics.fields import FieldSettings, SimulatedField, simulate_field
from hemolens.optics.placement import PlacementSettings

CELLS = 12


def comparisons(options: Options) -> Iterator[Comparison]:
    """A field of 512×512×48 voxels; the peer's transforms are of the finely sampled and of the written stack."""
    side, cells = (96, 1) if options.quick else (512, CELLS)
    settings = FieldSettings(
        field_px=(side, side),
        blood=BloodSettings(wbc_fraction=0.0),
        # twelve cells in 83 µm × 83 µm, all inside
        placement=PlacementSettings(density_per_mm2=cells / (side * 0.162) ** 2 * 1e6, border_probability=0.0),
    )
    optics = settings.tomography
    seed = seed_of(settings, cells)
    fine = np.random.default_rng(0).standard_normal((optics.slices * optics.axial_oversampling, side, side), np.float32)

    def ours() -> SimulatedField:
        rng = np.random.default_rng(seed)
        return simulate_field(rng, draw_sample(rng, settings.blood), settings, workers=options.threads)

    def peer() -> tuple[int, ...]:
        spectrum = fft.rfftn(fine, workers=options.threads)
        volume = fft.irfftn(spectrum[: optics.slices], s=(optics.slices, side, side), workers=options.threads)
        return tuple(volume.shape)

    yield Comparison(
        "twelve_cells",
        Side(
            "simulate_field", {"dtype": "float32", "slices simulated": optics.slices + 2 * optics.margin_slices}, ours
        ),
        Side("scipy.fft rfftn and irfftn", {"dtype": "float32", "fine slices": len(fine)}, peer),
        lambda ours, peer: check(ours, peer, cells),
        "the same voxels (the peer has no cells, noise or background)",
        target=0.5,
        work={"voxels": f"{optics.slices}×{side}×{side}", "seed": seed},
    )


def seed_of(settings: FieldSettings, cells: int) -> int:
    """The first seed whose field has that many cells."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        draw_sample(rng, settings.blood)
        if int(rng.poisson(settings.mean_cells)) == cells:
            return seed
    raise AssertionError(f"no field of {cells} cells")


def check(ours: SimulatedField, peer: tuple[int, ...], cells: int) -> dict[str, float]:
    """Same shape, and all cells there; returns their number."""
    found: dict[str, Any] = {"cells": len(ours.cells)}
    assert ours.volume.shape == peer, f"{ours.volume.shape} and {peer}"
    assert ours.volume.dtype == np.float32
    assert len(ours.cells) == cells, f"{len(ours.cells)} cells"
    return found
