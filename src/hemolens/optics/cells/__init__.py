"""Parametric blood cells of known volume and hemoglobin, drawn sample by sample."""

from hemolens.optics.cells.cell import CLASS_NAMES, Cell, Component, Pose
from hemolens.optics.cells.drawing import (
    BloodSample,
    annotate,
    draw_cell,
    draw_sample,
    draw_tilt_rad,
    majority,
    red_cell,
)
from hemolens.optics.cells.settings import (
    RED_KINDS,
    BloodSettings,
    PlateletSettings,
    RedCellSettings,
    WhiteCellSettings,
)
from hemolens.optics.cells.voxels import VoxelPatch, render

__all__ = [
    "CLASS_NAMES",
    "RED_KINDS",
    "BloodSample",
    "BloodSettings",
    "Cell",
    "Component",
    "PlateletSettings",
    "Pose",
    "RedCellSettings",
    "VoxelPatch",
    "WhiteCellSettings",
    "annotate",
    "draw_cell",
    "draw_sample",
    "draw_tilt_rad",
    "majority",
    "red_cell",
    "render",
]
