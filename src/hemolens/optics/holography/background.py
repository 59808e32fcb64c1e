"""Tilt, curvature and offset of the background: of a field, before its phase is unwrapped, and of a phase."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import Array, as_tensor, like, real_type
from hemolens.optics.holography.unwrapping import unwrap

SAMPLES = 64  # places along each side at which a background is looked at
ROUNDS = 12  # of leaving out what is no background
CLIP = 2.5  # standard deviations (from the median absolute deviation) above which a place is no background
EDGE_PX = 8  # around objects, that belongs to neither (diffraction rings)


def level_field(field: Array, *, degree: int = 2) -> Array:
    """A field without the tilt and curvature of its background, found without unwrapping.

    The phase step from each pixel to the next is a polynomial of one degree less; two rounds of a robust fit to the
    steps, on ever longer strides, give it. What non-telecentric microscopes and a tilted reference leave goes away.

    Args:
        field: complex [..., H, W].
        degree: of the background's polynomial, 1 (tilt) to 4.

    Returns:
        Complex [..., H, W] with a background phase near a constant.

    Raises:
        UserError: another degree, or no complex field.
    """
    values = as_tensor(field, "field", complex_values=True)
    _check_degree(degree)
    flat = values.reshape(-1, *values.shape[-2:])
    leveled = torch.stack([_leveled(image, degree) for image in flat])
    return like(leveled.reshape(values.shape), field)


def _check_degree(degree: int) -> None:
    if degree not in range(1, 5):
        raise UserError(f"degree={degree}: the background is a polynomial of degree 1 to 4")


def residual_tilt(field: Tensor, degree: int = 2) -> tuple[float, float]:
    """Tilt (y, x) of the background of a field [H, W] at its middle, in waves across the field."""
    coefficients, powers = _background_of(field, degree)
    found = dict(zip(powers, coefficients.tolist(), strict=True))
    (height, width), half = field.shape, math.pi  # the coefficients are for half a side less half a pixel
    return found[1, 0] / half * height / max(height - 1, 1), found[0, 1] / half * width / max(width - 1, 1)


def _leveled(image: Tensor, degree: int) -> Tensor:
    height, width = image.shape
    total, powers = _background_of(image, degree)
    return image * torch.polar(*_polar_of(-_surface(total, powers, (height, width), image)))


def _background_of(image: Tensor, degree: int) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Coefficients of the background's phase, and their powers (of y, of x)."""
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i) if i + j]
    total: NDArray[np.float64] = np.zeros(len(powers))
    for stride in (1, 4, 16):
        if stride * 4 > min(image.shape):
            break
        total += _step_fit(image, total, powers, stride)
    return total, powers


def _polar_of(phase: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(phase), phase


def _step_fit(
    image: Tensor, known: NDArray[np.float64], powers: list[tuple[int, int]], stride: int
) -> NDArray[np.float64]:
    """Coefficients to add to ``known``, from phase differences over ``stride`` pixels."""
    height, width = image.shape
    block = max(1, round(min(height, width) / SAMPLES))
    equations, steps, weights = [], [], []
    for axis in (0, 1):
        length = image.shape[axis] - stride
        pair = image.narrow(axis, stride, length) * image.narrow(axis, 0, length).conj()
        if known.any():
            start = _surface(known, powers, (height, width), image)
            pair = pair * torch.polar(*_polar_of(start.narrow(axis, 0, length) - start.narrow(axis, stride, length)))
        y, x, mean = _block_means(pair, block)
        low = (_unit(y, height), _unit(x, width))
        high = (_unit(y + stride * (axis == 0), height), _unit(x + stride * (axis == 1), width))
        equations.append(_basis(*high, powers) - _basis(*low, powers))
        steps.append(np.angle(mean))
        weights.append(np.sqrt(np.abs(mean)))
    return _robust_fit(np.concatenate(equations), np.concatenate(steps), np.concatenate(weights))


def _block_means(pair: Tensor, block: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Means over blocks of the products, flat, and the places of the blocks' middles in pixels."""
    rows, columns = pair.shape[0] // block, pair.shape[1] // block
    tiles = pair[: rows * block, : columns * block].reshape(rows, block, columns, block).mean((1, 3))
    middle = (block - 1) / 2
    y, x = np.meshgrid(np.arange(rows) * block + middle, np.arange(columns) * block + middle, indexing="ij")
    return y.ravel(), x.ravel(), tiles.cpu().numpy().ravel().astype(np.complex128)


def _unit(place: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Pixels to -1 .. 1 over the image."""
    return np.asarray(2 * place / max(length - 1, 1) - 1, np.float64)


def _basis(y: NDArray[np.float64], x: NDArray[np.float64], powers: list[tuple[int, int]]) -> NDArray[np.float64]:
    return np.stack([y**i * x**j for i, j in powers], axis=-1)


def _robust_fit(
    equations: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares that leaves out what lies off by more than ``CLIP`` deviations, round after round."""
    kept = np.isfinite(values) & (weights > 0)
    solution: NDArray[np.float64] = np.zeros(equations.shape[1])
    for _ in range(ROUNDS):
        w = weights[kept]
        solution = np.asarray(
            np.linalg.lstsq(equations[kept] * w[:, None], values[kept] * w, rcond=None)[0], np.float64
        )
        off = np.abs(values - equations @ solution)
        limit = CLIP * 1.4826 * float(np.median(off[kept])) + 1e-9
        now = np.isfinite(values) & (weights > 0) & (off <= limit)
        if now.sum() < 4 * equations.shape[1] or (now == kept).all():
            break
        kept = now
    return solution


def _surface(
    coefficients: NDArray[np.float64], powers: list[tuple[int, int]], size: tuple[int, int], image: Tensor
) -> Tensor:
    """The polynomial on all pixels, [H, W], in the precision of ``image``."""
    height, width = size
    y = torch.linspace(-1, 1, height, dtype=torch.float64, device=image.device)
    x = torch.linspace(-1, 1, width, dtype=torch.float64, device=image.device)
    order = max(i + j for i, j in powers)
    table = np.zeros((order + 1, order + 1))
    for (i, j), value in zip(powers, coefficients, strict=True):
        table[i, j] = value
    ys = torch.stack([y**i for i in range(order + 1)], dim=1)
    xs = torch.stack([x**j for j in range(order + 1)])
    dtype = real_type(image)
    # the product in single precision: 1e-7 of a background of some 100 rad is far below the noise
    left = (ys @ torch.as_tensor(table, device=image.device)).to(dtype)
    return left @ xs.to(dtype)


def flatten(phase_rad: Array, mask: NDArray[np.bool_] | Tensor | None = None, *, degree: int = 2) -> Array:
    """A phase without its background: a polynomial is fitted to what holds no object, and taken away.

    Args:
        phase_rad: unwrapped phase [..., H, W].
        mask: True where objects are, [..., H, W]; the background is what lies more than 8 px away from them. None: it
            is what remains when the places that stand out are left out, round after round.
        degree: of the polynomial, 0 (an offset) to 4.

    Returns:
        Phase [..., H, W] whose background has the median 0.

    Raises:
        UserError: another degree, a mask of another shape or one that leaves no background.
    """
    values = as_tensor(phase_rad, "phase_rad")
    if degree:
        _check_degree(degree)
    images = values.reshape(-1, *values.shape[-2:])
    masks: list[Tensor | None] = [None] * len(images)
    if mask is not None:
        objects = torch.as_tensor(mask, device=values.device)
        fits = objects.ndim in (2, values.ndim) and objects.shape == values.shape[values.ndim - objects.ndim :]
        if not fits or objects.dtype != torch.bool:
            raise UserError(f"mask: give bool {list(values.shape)}, not {objects.dtype} {list(objects.shape)}")
        masks = list(objects.expand(values.shape).reshape(-1, *values.shape[-2:]))
    flat = torch.stack([_flattened(image, known, degree) for image, known in zip(images, masks, strict=True)])
    return like(flat.reshape(values.shape), phase_rad)


def flattest(field: Tensor, degrees: Sequence[int], *, level: bool) -> tuple[Tensor, Tensor, int, float]:
    """A field [H, W] and its flat, unwrapped phase, by the degree of the background that leaves it narrowest.

    Args:
        field: complex [H, W].
        degrees: of the background's polynomial, to choose from.
        level: whether to take the polynomial from the field first (not where a reference did so).

    Returns:
        The field, its phase, the degree, and the standard deviation of the background.
    """
    found = []
    for degree in degrees:
        leveled = level_field(field, degree=degree) if level and degree else field
        phase = flatten(unwrap(torch.angle(leveled)), degree=degree)
        found.append((leveled, phase, degree, background_level(phase.cpu().numpy())[1]))
    return min(found, key=lambda candidate: candidate[3])


def _flattened(image: Tensor, mask: Tensor | None, degree: int) -> Tensor:
    height, width = image.shape
    block = max(1, round(min(height, width) / SAMPLES / 2))
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    ys, xs = np.arange(block // 2, height, block), np.arange(block // 2, width, block)
    sampled = image[block // 2 :: block, block // 2 :: block].cpu().numpy().astype(np.float64)
    places = np.stack(np.meshgrid(_unit(ys, height), _unit(xs, width), indexing="ij")).reshape(2, -1)
    equations = _basis(places[0], places[1], powers)
    if mask is not None:
        # grown once, on all pixels
        far = ~ndimage.binary_dilation(mask.cpu().numpy(), np.ones((3, 3), bool), iterations=EDGE_PX)
        free = far[block // 2 :: block, block // 2 :: block].ravel()
        if free.sum() < 2 * len(powers):
            raise UserError("the mask leaves no background to flatten by: check it, or leave it out")
        solution = np.linalg.lstsq(equations[free], sampled.ravel()[free], rcond=None)[0]
    else:
        solution, free = _background_fit(equations, sampled)
    flat = image - _surface(solution, powers, (height, width), image)
    rest = sampled.ravel() - equations @ solution
    return flat - float(np.median(rest[free]))


def _background_fit(
    equations: NDArray[np.float64], sampled: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Coefficients, and which of the sampled places are background.

    Objects stand out to one side, cells upwards: the level of the background is where most of the values lie (the
    shortest half of them), and its spread is taken from that half.
    """
    values = sampled.ravel()
    kept: NDArray[Any] = np.isfinite(values)
    solution = np.linalg.lstsq(equations[kept], values[kept], rcond=None)[0]
    for _ in range(ROUNDS):
        off = values - equations @ solution
        level, spread = _shortest_half(off[np.isfinite(off)])
        near = np.abs(off - level) <= CLIP * spread + 1e-9
        # a place counts when its neighbourhood does: the slopes of cells pass through the background's level
        near = ndimage.binary_erosion(near.reshape(sampled.shape), np.ones((3, 3), bool), border_value=1).ravel()
        if near.sum() < 4 * equations.shape[1] or (near == kept).all():
            break
        kept = near
        solution = np.linalg.lstsq(equations[kept], values[kept], rcond=None)[0]
    return solution, np.asarray(kept, bool)


def background_level(phase_rad: NDArray[np.floating]) -> tuple[float, float]:
    """Level and standard deviation of the background of a phase [H, W], by the shortest interval that holds half of its
    values: objects that stand out do not count, as long as they cover less than half."""
    return _shortest_half(np.asarray(phase_rad)[::2, ::2].ravel().astype(np.float64))


def _shortest_half(values: NDArray[np.float64]) -> tuple[float, float]:
    """Middle of the shortest interval that holds half of the values, and the standard deviation of a normal
    distribution with that interval."""
    ordered = np.sort(values)
    half = max(len(ordered) // 2, 1)
    widths = ordered[half:] - ordered[: len(ordered) - half]
    at = int(widths.argmin())
    return float(ordered[at : at + half + 1].mean()), float(widths[at]) / (2 * 0.6745)
