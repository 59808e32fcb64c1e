"""A full field from its file to the table of its cells: how long each stage takes."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fcos_pair import CLASS_NAMES, build_net
from benchmarks.harness import Chain, Options, Side
from benchmarks.measure_cells import CELL_PX, MEDIUM, VOXEL_UM, made_up
from hemolens.analysis.indices import measure_cells
from hemolens.data.planes import planes_of
from hemolens.data.views import TomogramView
from hemolens.inference.detection import InputSpec, predict_detections
from hemolens.io.volumes import Volume, open_volume, write_volume
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.precision import cpu_has_fast_bf16

CELLS = 94  # in a field of paper A


def comparisons(options: Options) -> Iterator[Chain]:
    """A TCF of 1444×1444×64 voxels with 94 cells, on a grid; one chain for each of two methods.

    The network has random weights, so what it finds is counted and thrown away: measured are the cells that are there.
    """
    depth, side, count = (8, 192, 4) if options.quick else (64, 1444, CELLS)
    index, boxes = made_up(depth, side, count)
    half = cpu_has_fast_bf16()
    task = DetectionTask(net=build_net("fcos_r18_pafpn", in_channels=1), class_names=CLASS_NAMES, channels_last=half)
    task.eval().setup("predict")
    view = TomogramView()
    spec = InputSpec(1, projection=view.projection, norm=view.norm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.tcf"
        write_volume(path, index, voxel_um=VOXEL_UM, medium_index=MEDIUM, wavelength_um=0.45)

        def read() -> Volume:
            with open_volume(path) as volume:
                return dataclasses.replace(volume, array=volume.array.loaded())

        def project(volume: Volume) -> tuple[Volume, NDArray[np.float32]]:
            return volume, view.see(planes_of(volume))[0]

        def detect(seen: tuple[Volume, NDArray[np.float32]]) -> tuple[Volume, int]:
            volume, picture = seen
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                return volume, len(predict_detections(task, picture, spec)["boxes"])

        for method in ("threshold", "half_max"):

            def measure(detected: tuple[Volume, int], method: str = method) -> Any:
                return measure_cells(detected[0], boxes, method=method, workers=options.threads)

            yield Chain(
                method,
                [
                    Side("read", {"file": "TCF as hemolens writes it", "holds": "the volume"}, read),
                    Side("project", {"makes": "maximum, mean, focus, range"}, project),
                    Side("detect", {"net": "fcos_r18_pafpn", "dtype": "bfloat16" if half else "float32"}, detect),
                    Side("measure", {"method": method, "cells": count, "workers": options.threads}, measure),
                ],
                all_measured,
                work={"voxels": f"{depth}×{side}×{side}", "cells": count, "cell_px": CELL_PX},
            )


def all_measured(table: Any) -> dict[str, Any]:
    """Every cell has a volume."""
    assert len(table) and (table["cv_fl"] > 0).all(), "a cell has no volume"
    return {"cells": len(table), "mean volume, fL": round(float(table["cv_fl"].mean()), 2)}
