"""Parametric blood cells with exact volume and hemoglobin, drawn donor by donor."""

from hemolens.optics.cells.cell import CLASS_NAMES, Cell, Component, Pose, Projection, project
from hemolens.optics.cells.drawing import Donor, draw_cell, draw_donor, draw_tilt_rad
from hemolens.optics.cells.settings import (
    BloodSettings,
    PlateletSettings,
    RedCellSettings,
    WhiteCellSettings,
    check_fractions,
)
from hemolens.optics.cells.shapes import BiconcaveDisc, Ellipsoid, EllipsoidUnion

__all__ = [
    "CLASS_NAMES",
    "BiconcaveDisc",
    "BloodSettings",
    "Cell",
    "Component",
    "Donor",
    "Ellipsoid",
    "EllipsoidUnion",
    "PlateletSettings",
    "Pose",
    "Projection",
    "RedCellSettings",
    "WhiteCellSettings",
    "check_fractions",
    "draw_cell",
    "draw_donor",
    "draw_tilt_rad",
    "project",
]
