"""Unwrapping red-cell scenes of 900×900 px, against scikit-image."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

from benchmarks.harness import Comparison, Options, Side
from benchmarks.red_cell_scene import scene
from hemolens.optics.holography import count_residues, unwrap

NOISE_RAD = (0.0, 0.15, 0.3, 0.5)


def comparisons(options: Options) -> Iterator[Comparison]:
    """Discocytes of 1.8 rad and spheres of 3.4 rad with normal noise in the phase."""
    side = 200 if options.quick else 900
    truth = scene(side)
    for noise in NOISE_RAD:
        rng = np.random.default_rng(0)
        wrapped = np.angle(np.exp(1j * (truth + noise * rng.standard_normal(truth.shape)))).astype(np.float32)

        def ours(wrapped: NDArray[np.float32] = wrapped) -> NDArray[np.float32]:
            return unwrap(wrapped)

        def peer(wrapped: NDArray[np.float32] = wrapped) -> NDArray[np.float32]:
            return unwrap_phase(wrapped)

        yield Comparison(
            f"noise_{noise:g}",
            Side("unwrap", {"dtype": "float32"}, ours),
            Side("skimage.restoration.unwrap_phase", {"dtype": "float32 in, float64 within"}, peer),
            same,
            "equal within 1e-4 rad after whole turns, but for 1e-5 of the pixels (those at residues)",
            target=15.0,
            work={"image": f"{side}×{side}", "noise_rad": noise, "residues": count_residues(wrapped)},
        )


def same(ours: NDArray[np.float32], peer: NDArray[np.float32]) -> dict[str, float]:
    """Share of the pixels that differ."""
    difference = ours - peer
    difference -= 2 * np.pi * np.round(np.median(difference) / (2 * np.pi))
    share = float((np.abs(difference) > 1e-4).mean())
    assert share <= 1e-5, f"{share:.2g} of the pixels differ"
    return {"share of pixels that differ": share}
