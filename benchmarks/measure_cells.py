"""Volume and hemoglobin of 1,000 cells in one tomogram, against loops that do the same cell by cell."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Comparison, Options, Side
from hemolens.analysis.indices import MARGIN_UM, THRESHOLD, measure_cells
from hemolens.io.volumes import RIArray, Volume

MEDIUM, RII, VOXEL_UM = 1.337, 0.0019, (0.731, 0.162, 0.162)
CELL_PX, PITCH_PX = 34, 43


def comparisons(options: Options) -> Iterator[Comparison]:
    """1444×1444×64 voxels in memory; the peers' windows are the same boxes with the same margin."""
    depth, side, count = (8, 192, 16) if options.quick else (64, 1444, 1000)
    index, boxes = made_up(depth, side, count)
    volume = Volume(
        array=RIArray(index, "made up"),
        voxel_um=VOXEL_UM,
        medium_index=MEDIUM,
        wavelength_um=0.45,
        path=Path("made up"),
    )
    margin = int(np.ceil(MARGIN_UM / VOXEL_UM[2]))
    windows = [(x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in boxes.astype(int).tolist()]

    def ours() -> NDArray[np.float64]:
        return measure_cells(volume, boxes, method="threshold", rii=RII)[["cv_fl", "ch_pg"]].to_numpy()

    def crops() -> NDArray[np.float64]:
        return np.array([measure(index[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in windows])

    def masks() -> NDArray[np.float64]:
        found = []
        for x0, y0, x1, y1 in windows:
            mask = np.zeros((side, side), bool)
            mask[y0:y1, x0:x1] = True
            found.append(measure(index[:, mask]))
        return np.array(found)

    work = {"voxels": f"{depth}×{side}×{side}", "medium": MEDIUM, "rii": RII}
    for name, peer, words, target in (
        ("box_crops", crops, "loop over crops of the boxes", 1.0),
        ("plane_masks", masks, "loop over 2-D masks of the field", 20.0),
    ):
        yield Comparison(
            name,
            Side("measure_cells, threshold", {"overlaps": "resolved", "tables": "made"}, ours),
            Side(words, {"overlaps": "not looked at"}, peer),
            same,
            "volumes equal, hemoglobin to 1e-6",
            target=target,
            work={**work, "cells": count},
        )


def made_up(depth: int, side: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A tomogram with cells on a grid, and their boxes [count, 4]."""
    rng = np.random.default_rng(0)
    index = (MEDIUM + 5e-4 * rng.standard_normal((depth, side, side), np.float32)).astype(np.float32)
    columns = (side - 10) // PITCH_PX
    boxes = []
    for number in range(count):
        y, x = (5 + PITCH_PX * part for part in divmod(number, columns))
        boxes.append([x, y, x + CELL_PX, y + CELL_PX])
        index[depth // 3 : depth // 2, y + 4 : y + CELL_PX - 4, x + 4 : x + CELL_PX - 4] += np.float32(0.04)
    return index, np.array(boxes, float)


def measure(window: NDArray[np.float32]) -> tuple[float, float]:
    """Equations 11 and 12 of paper A."""
    step = float(np.prod(VOXEL_UM))
    values = window[window > np.float32(MEDIUM + THRESHOLD)]
    return len(values) * step, 0.01 * (float(values.sum(dtype=np.float64)) - len(values) * MEDIUM) / RII * step


def same(ours: NDArray[np.float64], peer: NDArray[np.float64]) -> dict[str, float]:
    """Largest relative difference of the hemoglobin."""
    assert np.allclose(ours[:, 0], peer[:, 0], rtol=1e-12), "volumes differ"
    difference = float(np.abs(ours[:, 1] / peer[:, 1] - 1).max())
    assert difference <= 1e-6, f"hemoglobin differs by {difference:.2g}"
    return {"largest relative difference": difference}
