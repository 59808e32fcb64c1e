"""What a phase image says of each cell of an instance map: size, shape, optical volume and dry mass."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

from hemolens.errors import UserError
from hemolens.optics.holography import dry_mass_pg

# Dry mass per phase: 0.19 um^3/pg is usual for proteins, 0.18 to 0.21 is found (Barer 1952).
ALPHA_UM3_PG = 0.19
# Shares of the largest distance from a cell's edge: of a discocyte the rim is highest at 0.3, the middle is its pallor.
CENTER, RIM = (0.8, 1.0), (0.2, 0.5)
MEASURES = (
    *("cell", "type", "probability", "x_px", "y_px", "area_px", "cut"),
    *("area_um2", "equivalent_diameter_um", "optical_volume_um3", "dry_mass_pg", "alpha_um3_pg"),
    *("projected_circularity", "center_rim_ratio", "mean_phase_rad", "max_phase_rad"),
)


def measure_red_cells(
    phase_rad: NDArray[np.floating],
    classes: NDArray[np.integer],
    instances: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    probability: NDArray[np.floating] | None = None,
    pixel_um: float | None = None,
    wavelength_um: float | None = None,
    alpha_um3_pg: float = ALPHA_UM3_PG,
) -> list[dict[str, Any]]:
    """Measure every cell.

    The median phase of the background is 0 by definition. Columns (None where the scale is not known):

    - ``cell``: its number in ``instances``; ``type``: the class of most of its pixels; ``probability``: mean over its
      pixels of the probability of their class.
    - ``x_px``, ``y_px``: middle; ``area_px``; ``cut``: 1 where the image's border cuts it.
    - ``area_um2``: projected; ``equivalent_diameter_um``: of the circle of that area.
    - ``optical_volume_um3``: integral of the optical path over the area, lambda / 2 pi ∫ phi dA.
    - ``dry_mass_pg``: optical volume / alpha (Barer 1952), and the alpha it was taken with.
    - ``projected_circularity``: 4 pi area / perimeter^2 (Crofton's formula), 1 for a circle.
    - ``center_rim_ratio``: mean phase of the innermost part (distance from the edge at least 0.8 of its largest) over
      that of the rim (0.2 to 0.5): below 1 for a discocyte, above for a sphere.
    - ``mean_phase_rad``, ``max_phase_rad`` (99th percentile).

    Args:
        phase_rad: [H, W].
        classes, instances: [H, W], 0 background.
        class_names: background first.
        probability: [H, W], of the class of each pixel.
        pixel_um: side of a pixel.
        wavelength_um: in vacuum.
        alpha_um3_pg: refractive index increment.

    Raises:
        UserError: maps of different sizes, or an alpha that is not positive.
    """
    if not phase_rad.shape == classes.shape == instances.shape:
        raise UserError(f"phase {phase_rad.shape}, classes {classes.shape}, instances {instances.shape}: sizes differ")
    if not alpha_um3_pg > 0:
        raise UserError(f"alpha_um3_pg={alpha_um3_pg}: give a positive number, e.g. 0.19")
    background = phase_rad[classes == 0]
    phase = np.asarray(phase_rad, np.float64) - (float(np.median(background)) if background.size else 0.0)
    height, width = phase.shape
    rows = []
    for region in regionprops(instances.astype(np.int32)):
        y0, x0, y1, x1 = region.bbox
        at, mask = np.s_[y0:y1, x0:x1], region.image
        own = phase[at][mask]
        label = int(np.bincount(classes[at][mask], minlength=len(class_names))[1:].argmax()) + 1
        area = float(region.area)
        perimeter = float(region.perimeter_crofton)
        mass = None
        if pixel_um is not None and wavelength_um is not None:
            mass = dry_mass_pg(own, wavelength_um=wavelength_um, pixel_um=pixel_um, alpha_um3_pg=alpha_um3_pg)
        rows.append(
            {
                "cell": int(region.label),
                "type": class_names[label],
                "probability": None if probability is None else float(probability[at][mask].mean()),
                "x_px": float(region.centroid[1]),
                "y_px": float(region.centroid[0]),
                "area_px": int(area),
                "cut": int(y0 == 0 or x0 == 0 or y1 == height or x1 == width),
                "area_um2": None if pixel_um is None else area * pixel_um**2,
                "equivalent_diameter_um": None if pixel_um is None else 2 * math.sqrt(area / math.pi) * pixel_um,
                "optical_volume_um3": None if mass is None else mass * alpha_um3_pg,
                "dry_mass_pg": mass,
                "alpha_um3_pg": None if mass is None else alpha_um3_pg,
                "projected_circularity": 4 * math.pi * area / perimeter**2 if perimeter else None,
                "center_rim_ratio": _center_rim_ratio(phase[at], mask),
                "mean_phase_rad": float(own.mean()),
                "max_phase_rad": float(np.percentile(own, 99)),
            }
        )
    return rows


def _center_rim_ratio(phase: NDArray[np.float64], mask: NDArray[np.bool_]) -> float | None:
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    depth /= max(float(depth.max()), 1e-9)
    center, rim = (phase[mask & (depth >= low) & (depth <= high)] for low, high in (CENTER, RIM))
    if not (center.size and rim.size) or abs(float(rim.mean())) < 1e-6:
        return None
    return float(center.mean() / rim.mean())
