"""Whether a phase image can be trusted: measures of each image, and flags that say what is wrong and what to do."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemolens.errors import UserError
from hemolens.optics.holography import dry_mass_pg

THICK_RAD = 0.5  # thicker is taken for a cell when a segmentation is compared with its phase
CLEAR_UM = 1.5  # of a cell's edge: nearer lie the rings of diffraction
OPENED_UM = 0.4  # half of the width of the narrowest object that is no noise
REACH_UM = 5.0  # within which the dark ring around cells is sought
RING_DEPTH = 0.05  # of a cell's mean phase; in focus the ring has 0.02 to 0.04
ASSUMED_PIXEL_UM = 0.144  # where the scale is not known, for the two lengths above alone
BLOCKS = 6  # along each side, for the unevenness of the background
LEAST_UNION = 0.005  # of an image: below, disagreement of mask and phase is a matter of single pixels
MEASURES = (
    *("cells", "background_sd_rad", "unevenness_rad", "cell_phase_rad", "cell_dry_mass_pg"),
    *("edge_width_um", "ring_depth", "defocus_um", "clipped_fraction", "thick_not_cell", "thin_in_cell"),
    *("mean_confidence", "saturated_fraction"),
)


@dataclass(frozen=True, kw_only=True)
class QualityLimits:
    """Where an image is flagged; docs/storage.md has the measurements behind the defaults.

    Args:
        min_cells: fewer are ``few_cells``.
        defocus_um: further from the focus is ``out_of_focus``.
        saturated_fraction: a larger share of saturated pixels is ``saturated``.
        background_sd_rad, unevenness_rad: above either the background is ``uneven_background``.
        thick_not_cell, thin_in_cell: larger disagreements of mask and phase are ``unfamiliar_phase``.
        clipped_fraction: so is a larger share of phases that the network does not see.
        dry_mass_pg: and a median cell outside of this range.

    Raises:
        UserError: a negative limit, or a range in the wrong order.
    """

    min_cells: int = 20
    defocus_um: float = 5.5
    saturated_fraction: float = 0.01
    background_sd_rad: float = 0.25
    unevenness_rad: float = 0.4
    thick_not_cell: float = 0.3
    thin_in_cell: float = 0.2
    clipped_fraction: float = 0.01
    dry_mass_pg: tuple[float, float] = (15.0, 60.0)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "dry_mass_pg" and not value >= 0:
                raise UserError(f"quality.{name}={value}: give a number of 0 or more")
        if len(self.dry_mass_pg) != 2 or not 0 <= self.dry_mass_pg[0] < self.dry_mass_pg[1]:
            raise UserError(f"quality.dry_mass_pg={list(self.dry_mass_pg)}: give [lowest, highest] in pg")


@dataclass(frozen=True)
class QualityFlag:
    """What is wrong with an image.

    Attributes:
        name: ``few_cells``, ``out_of_focus``, ``saturated``, ``unfamiliar_phase``, ``uneven_background``, or
            ``unusable`` of an image that could not be analysed.
        measure: key of the measure behind it.
        value: of that measure.
        limit: that it passes.
        text: what is wrong, and what to do.
    """

    name: str
    measure: str
    value: float
    limit: float
    text: str


def measure_image(
    phase_rad: NDArray[np.floating],
    classes: NDArray[np.integer],
    instances: NDArray[np.integer],
    *,
    probability: NDArray[np.floating] | None = None,
    reconstruction: Mapping[str, Any] | None = None,
    defocus_um: float | None = None,
    pixel_um: float | None = None,
    wavelength_um: float | None = None,
    medium_index: float = 1.334,
    phase_limits_rad: tuple[float, float] = (-1.0, 5.0),
) -> dict[str, float]:
    """Measures of a segmented phase image; NaN for what cannot be known.

    - ``cells``: instances.
    - ``background_sd_rad``: robust standard deviation of the phase at least 1.5 um from cells.
    - ``unevenness_rad``: largest less smallest of its medians over 6 x 6 parts of the image.
    - ``cell_phase_rad``: median over cells of their mean phase; it grows with storage.
    - ``cell_dry_mass_pg``: median over cells that the border does not cut; it hardly changes with storage.
    - ``edge_width_um``: of the mean profile across the cells' edges, from 80 % to 20 % of a cell's mean phase.
    - ``ring_depth``: of the first dark ring around cells, as a share of their mean phase.
    - ``defocus_um``: distance from the focus, without a sign: what the caller found, or else by the ring's outer end r,
      where the first Fresnel zone ends: n r^2 / wavelength; 0 where there is no ring, NaN where the background is more
      uneven than the ring is deep.
    - ``clipped_fraction``: share of pixels outside of ``phase_limits_rad``.
    - ``thick_not_cell``, ``thin_in_cell``: pixels thicker than 0.5 rad that are not called a cell, and the reverse, as
      shares of the pixels that are either.
    - ``mean_confidence``: mean probability of the class over the cells' pixels.
    - ``saturated_fraction``: of the hologram.

    Args:
        phase_rad: [H, W].
        classes, instances: [H, W], 0 background.
        probability: of each pixel's class, [H, W].
        reconstruction: a row of ``quality.csv``.
        defocus_um: remaining distance to the best focus, found in the complex field.
        pixel_um: side of a pixel.
        wavelength_um: in vacuum.
        medium_index: refractive index around the cells.
        phase_limits_rad: of the network.

    Raises:
        UserError: maps of different sizes.
    """
    if not phase_rad.shape == classes.shape == instances.shape or phase_rad.ndim != 2:
        raise UserError(f"phase {phase_rad.shape}, classes {classes.shape}, instances {instances.shape}: sizes differ")
    called = classes > 0
    phase = np.asarray(phase_rad, np.float64)
    if not called.all():
        phase = phase - float(np.median(phase[~called]))
    numbers = np.unique(instances[instances > 0])
    means = ndimage.mean(phase, instances, numbers) if numbers.size else np.empty(0)
    length_um = pixel_um or ASSUMED_PIXEL_UM
    thick = phase > THICK_RAD
    objects = ndimage.binary_opening(thick, iterations=max(1, round(OPENED_UM / length_um)))
    spread, uneven = _background(phase, called | objects, CLEAR_UM / length_um)
    width, depth, ring = _edge(phase, objects, REACH_UM / length_um)
    level = float(np.median(means)) if numbers.size else math.nan
    union = max(int((thick | called).sum()), LEAST_UNION * phase.size)
    low, high = phase_limits_rad
    focus = math.nan if defocus_um is None else abs(defocus_um)
    seen = ring == 0 or depth * float(phase[objects].mean() if objects.any() else 0) > uneven
    if defocus_um is None and seen and None not in (pixel_um, wavelength_um):
        focus = medium_index * (ring * length_um) ** 2 / float(wavelength_um or 1)
    saturated = (reconstruction or {}).get("saturated_fraction")
    return {
        "cells": float(numbers.size),
        "background_sd_rad": spread,
        "unevenness_rad": uneven,
        "cell_phase_rad": level,
        "cell_dry_mass_pg": _dry_mass(phase, instances, pixel_um, wavelength_um),
        "edge_width_um": math.nan if pixel_um is None else width * pixel_um,
        "ring_depth": depth,
        "defocus_um": focus,
        "clipped_fraction": float(((phase_rad < low) | (phase_rad > high)).mean()),
        "thick_not_cell": float((thick & ~called).sum() / union),
        "thin_in_cell": float((called & ~thick).sum() / union),
        "mean_confidence": float(probability[called].mean()) if probability is not None and called.any() else math.nan,
        "saturated_fraction": math.nan if saturated in (None, "") else float(saturated),
    }


def _background(phase: NDArray[np.float64], objects: NDArray[np.bool_], clear_px: float) -> tuple[float, float]:
    """Robust standard deviation of the background, and the range of its medians over parts of the image."""
    far = ndimage.distance_transform_edt(~objects) > clear_px if objects.any() else ~objects
    if not far.any():
        return math.nan, math.nan
    values = phase[far]
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    medians = []
    for rows in np.array_split(np.arange(phase.shape[0]), BLOCKS):
        for columns in np.array_split(np.arange(phase.shape[1]), BLOCKS):
            at = np.ix_(rows, columns)
            if far[at].mean() > 0.2:
                medians.append(float(np.median(phase[at][far[at]])))
    return spread, float(np.ptp(medians)) if medians else math.nan


def _edge(phase: NDArray[np.float64], objects: NDArray[np.bool_], reach_px: float) -> tuple[float, float, float]:
    """Width of the edge (px), depth of the dark ring (share of an object's phase) and its outer end (px from the edge).

    All of the mean profile over the distance from the edge, which is where the phase falls below half of an object's
    mean: masks may be coarse, or lack cells. Each object counts in units of its mean phase.
    """
    labels, number = ndimage.label(objects)
    if not number:
        return math.nan, math.nan, math.nan
    scale = np.concatenate([[np.inf], ndimage.mean(phase, labels, np.arange(1, number + 1))])
    labels *= ndimage.binary_fill_holes(phase > scale[labels] / 2)
    inside = labels > 0
    outside, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    distance = np.where(inside, 0.5 - ndimage.distance_transform_edt(inside), outside - 0.5)
    relative = phase / scale[labels[tuple(nearest)]]
    reach = math.ceil(reach_px)
    bins = np.floor(distance).astype(int) + reach  # bin k: middles from k - reach to k - reach + 1
    use = (bins >= 0) & (bins < 2 * reach) & np.isfinite(relative)
    count = np.bincount(bins[use], minlength=2 * reach)
    if not count[reach:].any():
        return math.nan, math.nan, math.nan
    last = int(np.flatnonzero(count)[-1]) + 1
    profile = np.bincount(bins[use], relative[use], 2 * reach) / np.maximum(count, 1)
    places = np.arange(2 * reach) - reach + 0.5
    outer = slice(reach, last)
    foot = _crossing(places[:last], profile[:last], 0.2)
    # from the foot inwards: the pallor of discocytes is thin, too
    inner = places < foot + 1
    top = -_crossing(-places[inner][::-1], -profile[inner][::-1], -0.8)
    lowest = int(profile[outer].argmin())
    depth = max(-float(profile[outer][lowest]), 0.0)
    if depth < RING_DEPTH:
        return foot - top, depth, 0.0
    return foot - top, depth, _crossing(places[outer][lowest:], -profile[outer][lowest:], 0.0)


def _crossing(places: NDArray[np.floating], values: NDArray[np.floating], level: float) -> float:
    """Where values first fall below a level, between two places; NaN where they do not."""
    below = np.flatnonzero((values[1:] < level) & (values[:-1] >= level))
    if not below.size:
        return math.nan
    at = int(below[0])
    return float(places[at] + (values[at] - level) / (values[at] - values[at + 1]) * (places[at + 1] - places[at]))


def _dry_mass(
    phase: NDArray[np.float64], instances: NDArray[np.integer], pixel_um: float | None, wavelength_um: float | None
) -> float:
    """Median dry mass of the cells that the border does not cut, in pg."""
    if pixel_um is None or wavelength_um is None:
        return math.nan
    border = np.concatenate([instances[0], instances[-1], instances[:, 0], instances[:, -1]])
    whole = np.setdiff1d(instances, np.append(border, 0))
    if not whole.size:
        return math.nan
    sums = ndimage.sum_labels(phase, instances, whole)
    of_one = dry_mass_pg(np.ones(1), wavelength_um=wavelength_um, pixel_um=pixel_um)
    return float(np.median(sums)) * of_one


def flag_image(
    measures: Mapping[str, float],
    limits: QualityLimits | None = None,
) -> list[QualityFlag]:
    """What is wrong with an image, at most one flag of a kind; a measure that is not known raises none.

    Args:
        measures: of :func:`measure_image`.
        limits: None: the defaults.
    """
    limit = limits or QualityLimits()
    found = [*_saturated(measures, limit), *_uneven(measures, limit), *_focus(measures, limit)]
    found += [*_unfamiliar(measures, limit), *_few(measures, limit)]
    first = {flag.name: flag for flag in reversed(found)}
    return [flag for flag in found if first[flag.name] is flag]


def _few(measures: Mapping[str, float], limit: QualityLimits) -> Iterable[QualityFlag]:
    cells = measures["cells"]
    if cells < limit.min_cells:
        text = f"Only {cells:.0f} cells: its shares are uncertain; take fields with at least {limit.min_cells} cells."
        yield QualityFlag("few_cells", "cells", cells, limit.min_cells, text)


def _focus(measures: Mapping[str, float], limit: QualityLimits) -> Iterable[QualityFlag]:
    away = measures["defocus_um"]
    if away > limit.defocus_um:
        text = (
            f"About {away:.1f} µm out of focus (at most {limit.defocus_um:g}): refocus it with "
            "hologram.refocus_um=auto, or take it again."
        )
        yield QualityFlag("out_of_focus", "defocus_um", away, limit.defocus_um, text)


def _saturated(measures: Mapping[str, float], limit: QualityLimits) -> Iterable[QualityFlag]:
    share = measures["saturated_fraction"]
    if share > limit.saturated_fraction:
        text = (
            f"{share:.1%} of the hologram is saturated (at most {limit.saturated_fraction:.1%}): its phase is wrong; "
            "expose for less light and take it again."
        )
        yield QualityFlag("saturated", "saturated_fraction", share, limit.saturated_fraction, text)


def _uneven(measures: Mapping[str, float], limit: QualityLimits) -> Iterable[QualityFlag]:
    for name, words in (("unevenness_rad", "varies by"), ("background_sd_rad", "scatters by ±")):
        value, most = measures[name], getattr(limit, name)
        if value > most:
            gap = "" if words.endswith("±") else " "
            text = (
                f"The background {words}{gap}{value:.2f} rad (at most {most:.2f}): give a reference hologram or a "
                "higher hologram.degree, and clean the optics."
            )
            yield QualityFlag("uneven_background", name, value, most, text)


_FOREIGN = "do not trust its types; check wavelength, pixel size and sample."


def _unfamiliar(measures: Mapping[str, float], limit: QualityLimits) -> Iterable[QualityFlag]:
    for name, words in (
        ("thick_not_cell", "Mask and phase disagree: {} of their area is as thick as a cell but not called one"),
        ("thin_in_cell", "Mask and phase disagree: {} of their area is called a cell but too thin for one"),
        ("clipped_fraction", "{} of the pixels lie outside of the phases that the network knows"),
    ):
        value, most = measures[name], getattr(limit, name)
        if value > most:
            text = f"{words.format(f'{value:.0%}')} (at most {most:.0%}): {_FOREIGN}"
            yield QualityFlag("unfamiliar_phase", name, value, most, text)
    mass, (low, high) = measures["cell_dry_mass_pg"], limit.dry_mass_pg
    if mass < low or mass > high:
        text = f"The median cell has {mass:.0f} pg of dry mass, red cells have {low:g} to {high:g}: {_FOREIGN}"
        yield QualityFlag("unfamiliar_phase", "cell_dry_mass_pg", mass, low if mass < low else high, text)
