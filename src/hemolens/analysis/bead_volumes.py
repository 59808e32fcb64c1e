"""Beads in refractive-index tomograms: their diameters along each axis and the index of their core."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hemolens.analysis.beads import SIZES, Bead, BeadFit, FloatArray, find_beads, refuse_nothing, soft_sphere
from hemolens.io.volumes import Volume, project_volume
from hemolens.optics.tomography import TomographySettings, band_limit_axially, form_tomogram

CORE = 0.5  # of the fitted radii: inside it lies the core
WHOLE = 1.3  # of the fitted radii: inside it the residual is taken
MARGIN_UM = 1.5  # around the expected bead, at least
STRETCH = 2.0  # a bead's image along z is expected to be this much longer, at most
MOST_VOXELS = 60_000  # of a fit; of more every second, third, ... row and column is taken
AXES = ("z", "y", "x")


def measure_volume_beads(volume: Volume, bead: Bead, *, apparent: Mapping[str, float] | None = None) -> list[BeadFit]:
    """Find beads in the projection of a tomogram and fit an ellipsoid with a soft edge to each. A row has

    - ``z_px``, ``y_px``, ``x_px``: middle; ``diameter_z_um``, ``diameter_y_um``, ``diameter_x_um`` at the stated voxel;
    - ``voxel_z_um``, ``voxel_y_um``, ``voxel_x_um``: voxel that makes each diameter the expected one;
    - ``ri_core``: median index of the inner half; ``ri_background``: fitted, around the bead; ``contrast``: the first
      less the second; ``ri_scale``: over the expected contrast, 1 for a true instrument; ``ri_offset``: background less
      the stated medium;
    - ``residual_percent``: root mean square of what the fit leaves, of the contrast.

    With its missing cone a tomogram shows a bead longer along z and its core lower; what is expected is then not the
    bead itself, but what :func:`seen_by` says.

    Args:
        volume: RI [Z, Y, X].
        bead: what is known; ``bead.medium_index`` is the stated medium.
        apparent: what a true instrument shows, a row of :func:`seen_by`; None: the bead itself.

    Raises:
        UserError: no bead in it, or a damaged file.
    """
    dz, dy, dx = volume.voxel_um
    if bead.contrast > 0:
        flat = project_volume(volume)["maximum"]
    else:
        flat = np.min([volume.array[z] for z in range(volume.shape[0])], axis=0)
    size = (bead.diameter_um / dy, bead.diameter_um / dx)
    # the core of a small bead is seen too low: what stands out is looked for at half of what is expected
    middles, _, passed = find_beads(flat, 0.7 * bead.contrast, size, sizes=(SIZES[0], 1.2 * SIZES[1]))
    refuse_nothing(middles, flat, bead.contrast, passed)
    half_y, half_x = (math.ceil((0.75 * bead.diameter_um + MARGIN_UM) / step) for step in (dy, dx))
    fits = []
    for cy, cx in middles:
        y0, x0 = max(round(cy) - half_y, 0), max(round(cx) - half_x, 0)
        box = np.s_[y0 : round(cy) + half_y + 1, x0 : round(cx) + half_x + 1]
        crop = np.asarray(volume.array[:, box[0], box[1]], np.float64)
        fits.append(_fitted(crop, (cy - y0, cx - x0), (y0, x0), (dz, dy, dx), bead, apparent))
    return fits


def _fitted(
    crop: FloatArray,
    middle: tuple[float, float],
    origin: tuple[int, int],
    voxel: tuple[float, float, float],
    bead: Bead,
    apparent: Mapping[str, float] | None = None,
) -> BeadFit:
    """Least squares of centre, radii (um), contrast, background and softness of an ellipsoid."""
    steps = np.asarray(voxel)
    column = crop[:, round(middle[0]), round(middle[1])]
    level = float(np.median(crop))
    high = (column - level) * math.copysign(1, bead.contrast)
    height = round(float(np.flatnonzero(high > 0.5 * high.max()).mean()))
    radius = bead.diameter_um / 2
    # what lies further along z than any image of the bead reaches is left out: its halo is no background
    reach = math.ceil((STRETCH * radius + MARGIN_UM) / steps[0])
    z0 = max(height - reach, 0)
    near = crop[z0 : height + reach + 1]
    thin = max(1, math.ceil(math.sqrt(near.size / MOST_VOXELS)))
    grid = np.meshgrid(*(np.arange(n, step=k) for n, k in zip(near.shape, (1, thin, thin), strict=True)), indexing="ij")
    places = [axis.ravel() * step for axis, step in zip(grid, steps, strict=True)]
    values = near[:, ::thin, ::thin].ravel()

    def model(p: FloatArray, at: Sequence[NDArray[Any]]) -> FloatArray:
        away = np.sqrt(sum(((at[i] - p[i]) / p[3 + i]) ** 2 for i in range(3)))
        return np.asarray(p[7] + p[6] * soft_sphere(away, 1.0, float(p[8])), np.float64)

    guess = np.array(
        [(height - z0) * steps[0], middle[0] * steps[1], middle[1] * steps[2], *[radius] * 3, bead.contrast, level, 0.1]
    )
    least = [0.5 * radius] * 3
    span = sorted((0.2 * bead.contrast, 3 * bead.contrast))
    fit = least_squares(
        lambda p: (model(p, places) - values) / abs(bead.contrast),
        guess,
        bounds=(
            [*(guess[:3] - radius), *least, span[0], -np.inf, 0.02],
            [*(guess[:3] + radius), *[3 * radius] * 3, span[1], np.inf, 0.5],
        ),
        x_scale=[radius] * 6 + [abs(bead.contrast)] * 2 + [0.1],
        loss="soft_l1",
        f_scale=0.1,
    )
    found = np.asarray(fit.x)
    away = np.sqrt(sum(((places[i] - found[i]) / found[3 + i]) ** 2 for i in range(3)))
    core = values[away < CORE]
    ri_core = float(np.median(core)) if core.size else float(found[6] + found[7])
    rms = math.sqrt(float(((model(found, places) - values)[away < WHOLE] ** 2).mean()))
    true = apparent or {"contrast": bead.contrast, "ri_offset": 0.0}
    sizes = [true.get(f"diameter_{axis}_um", bead.diameter_um) for axis in AXES]
    row: dict[str, Any] = {
        "z_px": float(found[0] / steps[0] + z0),
        "y_px": float(found[1] / steps[1] + origin[0]),
        "x_px": float(found[2] / steps[2] + origin[1]),
        **{f"diameter_{axis}_um": float(2 * found[3 + i]) for i, axis in enumerate(AXES)},
        **{f"voxel_{axis}_um": voxel[i] * sizes[i] / float(2 * found[3 + i]) for i, axis in enumerate(AXES)},
        "ri_core": ri_core,
        "ri_background": float(found[7]),
        "contrast": ri_core - float(found[7]),
        "ri_scale": (ri_core - float(found[7])) / true["contrast"],
        "ri_offset": float(found[7]) - bead.medium_index - true["ri_offset"],
        "residual_percent": 100 * rms / abs(ri_core - float(found[7])),
    }
    section = min(max(round(float(found[1] / steps[1])), 0), near.shape[1] - 1)
    at = np.meshgrid(
        np.arange(near.shape[0]) * steps[0], section * steps[1], np.arange(near.shape[2]) * steps[2], indexing="ij"
    )
    shown = model(found, at)[:, 0] - found[7]
    return BeadFit(row, near[:, section] - found[7], shown, (voxel[0], voxel[2]), "RI")


def seen_by(
    bead: Bead,
    voxel_um: tuple[float, float, float],
    *,
    condenser_na: float,
    objective_na: float,
    wavelength_um: float,
) -> Mapping[str, float]:
    """What an ideal instrument of these apertures shows of a bead: the row of :func:`measure_volume_beads`.

    The linear model of diffraction tomography with its missing cone, without noise and without a prior that fills the
    cone; a reconstruction that fills it shows the bead truer.

    Raises:
        UserError: impossible apertures.
    """
    slices = math.ceil((3 * bead.diameter_um + 4 * MARGIN_UM) / voxel_um[0])
    settings = TomographySettings(
        voxel_um=voxel_um,
        slices=slices,
        wavelength_um=wavelength_um,
        condenser_na=condenser_na,
        objective_na=objective_na,
        medium_index=bead.medium_index,
        noise_ri=0.0,
        background_ri=0.0,
    )
    dz, dy, dx = settings.fine_voxel_um
    # more than half of the field must be background
    rows, columns = (math.ceil((2.2 * bead.diameter_um + 4 * MARGIN_UM) / step) for step in (dy, dx))
    sides = zip((settings.fine_depth, rows, columns), (dz, dy, dx), strict=True)
    axes = [(np.arange(count) - (count - 1) / 2) * step for count, step in sides]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    away = np.sqrt(z**2 + y**2 + x**2)
    inside = np.clip((bead.diameter_um / 2 - away) / dx + 0.5, 0, 1)
    fine = (inside * bead.contrast).astype(np.float32)
    shown = form_tomogram(np.random.default_rng(0), band_limit_axially(fine, settings.axial_oversampling), settings)
    return _fitted(shown.astype(np.float64), ((rows - 1) / 2, (columns - 1) / 2), (0, 0), voxel_um, bead).row
