"""Unwrap phase images.

Where the wrapped differences of neighbours close to zero around every square of four pixels (no residues: Goldstein,
Zebker and Werner 1988) the sum along any path is the answer. Where a few do not, the least-squares phase (Ghiglia and
Romero 1994, by cosine transforms) says which multiple of 2 pi each pixel lacks. Where many do not, or that leaves more
steep steps than there are residues, the image goes through scikit-image's reliability-guided unwrapping (Herraez et al.
2002).
"""

import math

import torch
from scipy import fft
from torch import Tensor

from hemolens.errors import UserError
from hemolens.optics.holography.arrays import Array, as_tensor, like

TWO_PI = 2 * math.pi
#: Residues a pixel above which scikit-image's slower way is taken.
MANY_RESIDUES = 2e-3


def unwrap(phase_rad: Array) -> Array:
    """Phase without jumps of 2 pi.

    Args:
        phase_rad: wrapped phase [..., H, W] in rad.

    Returns:
        [..., H, W] of the same kind; equal to ``phase_rad`` plus whole multiples of 2 pi, and unchanged where no
        neighbours differ by more than pi. The median of each image lies within (-pi, pi].

    Raises:
        UserError: values that are not numbers.
    """
    wrapped = as_tensor(phase_rad, "phase_rad")
    if not math.isfinite(float(wrapped.sum())):
        raise UserError("phase_rad holds values that are not numbers: a field of no amplitude, or a damaged file")
    images = wrapped.reshape(-1, *wrapped.shape[-2:])
    whole = [_unwrapped(image) for image in images]
    return like((whole[0] if len(whole) == 1 else torch.stack(whole)).reshape(wrapped.shape), phase_rad)


def count_residues(phase_rad: Array) -> int:
    """Squares of four pixels around which the wrapped differences of the phase [..., H, W] do not close."""
    wrapped = as_tensor(phase_rad, "phase_rad")
    return int(_curl(*_turns(wrapped)).count_nonzero())


def _turns(phase: Tensor) -> tuple[Tensor, Tensor]:
    """Whole turns in the steps along y [..., H-1, W] and x [..., H, W-1]."""
    down = torch.sub(phase[..., 1:, :], phase[..., :-1, :]).mul_(1 / TWO_PI).round_()
    right = torch.sub(phase[..., 1:], phase[..., :-1]).mul_(1 / TWO_PI).round_()
    return down, right


def _curl(down: Tensor, right: Tensor) -> Tensor:
    """Turns around each square of four pixels."""
    return right.diff(dim=-2) - down.diff(dim=-1)


def _unwrapped(wrapped: Tensor) -> Tensor:
    down, right = _turns(wrapped)
    if not int(down.count_nonzero()) and not int(right.count_nonzero()):
        return wrapped.clone()
    residues = int(_curl(down, right).count_nonzero())
    if residues == 0:
        whole = wrapped.clone()
        whole[:, 1:].sub_(torch.cumsum(right, 1), alpha=TWO_PI)
        whole[1:].sub_(torch.cumsum(down[:, :1], 0), alpha=TWO_PI)
        return _centred(whole)
    if residues > MANY_RESIDUES * wrapped.numel():
        return _centred(_by_reliability(wrapped))
    # The least-squares phase lacks 2 pi times the potential of these turns; whole turns next to it, up to a constant.
    potential = _least_squares(down, right)
    some = potential[::7, ::7].to(torch.float64) * TWO_PI
    offset = float(torch.atan2(torch.sin(some).mean(), torch.cos(some).mean())) / TWO_PI
    found = torch.sub(wrapped, potential.sub_(offset).round_(), alpha=TWO_PI)
    # Noise leaves one steep step for each pair of residues. Where far more are left, residues lie far apart, and the
    # least-squares phase is bent between them.
    steep = sum(int(step.count_nonzero()) for step in _turns(found))
    return _centred(found if steep <= residues else _by_reliability(wrapped))


def _centred(phase: Tensor) -> Tensor:
    """Shifted in place by whole turns so that the median lies within (-pi, pi]."""
    turns = math.ceil((float(phase[::3, ::3].median()) - math.pi) / TWO_PI)
    return phase.sub_(TWO_PI * turns) if turns else phase


def _by_reliability(wrapped: Tensor) -> Tensor:
    from skimage.restoration import unwrap_phase  # here: it takes a while to import, and most images do not need it

    principal = torch.remainder(wrapped + math.pi, TWO_PI) - math.pi
    found = torch.from_numpy(unwrap_phase(principal.cpu().numpy())).to(wrapped)
    return wrapped + TWO_PI * torch.round((found - wrapped) * (1 / TWO_PI))


def _least_squares(down: Tensor, right: Tensor) -> Tensor:
    """Image [H, W] whose steps along y [H-1, W] and x [H, W-1] are nearest to those given, mean 0."""
    height, width = right.shape[0], down.shape[1]
    divergence = torch.zeros((height, width), dtype=down.dtype, device=down.device)
    divergence[:-1] += down
    divergence[1:] -= down
    divergence[:, :-1] += right
    divergence[:, 1:] -= right
    eigenvalues = (_eigenvalues(height, down)[:, None] + _eigenvalues(width, down)).to(down.dtype)
    eigenvalues[0, 0] = 1.0
    if divergence.device.type == "cpu":
        spectrum = fft.dctn(divergence.numpy(), type=2, norm="ortho")
        spectrum /= eigenvalues.numpy()
        spectrum[0, 0] = 0
        return torch.from_numpy(fft.idctn(spectrum, type=2, norm="ortho", overwrite_x=True))
    coefficients = _cosines(_cosines(divergence, -1), -2) / eigenvalues
    coefficients[0, 0] = 0
    return _cosines(_cosines(coefficients, -1, inverse=True), -2, inverse=True)


def _eigenvalues(size: int, reference: Tensor) -> Tensor:
    """Of the second difference with mirrored ends, float64 [size]."""
    angle = torch.arange(size, dtype=torch.float64, device=reference.device) * (math.pi / size)
    return 2 * torch.cos(angle) - 2


def _cosines(values: Tensor, axis: int, *, inverse: bool = False) -> Tensor:
    """Cosine transform of type II along an axis, not normalised, or its inverse, on any device (Makhoul 1980)."""
    along = values.movedim(axis, -1)
    size = along.shape[-1]
    k = torch.arange(size, dtype=torch.float64, device=values.device)
    turn = torch.polar(torch.ones_like(k), -math.pi * k / (2 * size))
    if values.dtype == torch.float32:
        turn = turn.to(torch.complex64)
    if not inverse:
        folded = torch.cat([along[..., ::2], along[..., 1::2].flip(-1)], -1)
        return (torch.fft.fft(folded.to(turn.dtype)) * turn).real.movedim(-1, axis)
    back = torch.cat([torch.zeros_like(along[..., :1]), along[..., 1:].flip(-1)], -1)
    folded = torch.fft.ifft(torch.complex(along, -back) * turn.conj()).real
    result = torch.empty_like(along)
    result[..., ::2] = folded[..., : (size + 1) // 2]
    result[..., 1::2] = folded[..., (size + 1) // 2 :].flip(-1)
    return result.movedim(-1, axis)
