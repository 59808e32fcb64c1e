"""How near generated phase images come to real ones, without downloaded weights: the caller brings the feature network.

Images are float [N, 1, H, W] (real) and [M, 1, H, W] (generated) in rad, of one size and finite, features [N, D] and
[M, D] of at least 2 images each; anything else raises a UserError that says what to give. All sums are in float64.

Two sets of real images differ too: :func:`floor_of` says by how much, and a distance means something beside its floor.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from hemolens.errors import UserError

Distance = Callable[[Tensor, Tensor], float]
CELL_SCORES = ("area_um2", "mean_phase_rad", "covered_share")
_STEP_RAD = 0.005
_CHUNK = 64  # images at a time; bounds memory, changes no result
_MAX_STEPS = 100_000  # of a histogram: 500 rad at 0.005 rad, beyond any cell
_LEAST_POWER = 1e-24  # rad², rounding of float64; keeps the logarithm of an empty ring finite
COMPARED = ("histogram_rad", "spectrum_decades", "area_um2", "mean_phase_rad", "frechet")  # of `over_floor`
_MOST = 1e3  # distance of a cell measure in `over_floor`, where nothing that was made is a whole cell
_LEAST_FLOOR = 1e-6  # what a distance is divided by at least
_MOST_GROUPS = 2**24  # float32 holds whole numbers below it


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of normal distributions fitted to features [N, D] and [M, D] (Heusel et al. 2017).

    |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½). The trace of the root is that of the symmetric (S1^½ S2 S1^½)^½, so fewer
    samples than features do no harm. It falls with the number of samples: compare equal numbers.
    """
    first, second = _checked_features(real, fake)
    cov1, cov2 = (torch.cov(features.T).reshape(features.shape[1], -1) for features in (first, second))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ cov2 @ root
    shared = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return max(float(means + cov1.trace() + cov2.trace() - 2 * shared), 0.0)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of features [N, D] and [M, D] (Binkowski et al. 2018).

    The kernel is (x·y / D + 1)³; of all samples, not of random subsets. Equal distributions give values around 0, also
    below it.
    """
    first, second = _checked_features(real, fake)
    within_first, within_second, across = (
        (a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((first, first), (second, second), (first, second))
    )
    own = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (within_first, within_second)]
    return float(own[0] + own[1] - 2 * across.mean())


def _checked_features(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(f"features {list(real.shape)} and {list(fake.shape)}: give [N, D] and [M, D] of one D")
    if min(len(real), len(fake)) < 2:
        raise UserError(f"features of {len(real)} and {len(fake)} images: at least 2 of each are needed")
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise UserError("features that are not finite: look at the images, or at the network that made the features")
    return real.double(), fake.double()


def _check_images(*sets: Tensor) -> None:
    """Refuse what is not float [N, 1, H, W] of one H and W, has no image, or is not finite."""
    for images in sets:
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[1:] != sets[0].shape[1:] or not images.numel():
            shapes = " and ".join(str(list(each.shape)) for each in sets)
            raise UserError(f"images {shapes}: give one or more of [N, 1, H, W], of one H and W")
        if not images.is_floating_point():
            raise UserError(f"images are {images.dtype}: give phases in rad as a floating type")
        bad = (~images.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise UserError(f"image {int(bad[0])} has phases that are not finite: look at what made it")


def histogram_distance(real: Tensor, fake: Tensor, *, step_rad: float = _STEP_RAD) -> float:
    """1-Wasserstein distance in rad between the phases of all pixels of images [N, 1, H, W] and [M, 1, H, W].

    Phases are rounded to whole steps, which changes the distance by at most ``step_rad``; a range of more than 100,000
    steps raises a UserError.
    """
    _check_images(real, fake)
    rows = [torch.zeros(len(images), dtype=torch.long, device=images.device) for images in (real, fake)]
    return _histogram_gap(*_histograms(real, fake, *rows, step_rad=step_rad), step_rad=step_rad)


def _histograms(
    real: Tensor, fake: Tensor, real_rows: Tensor, fake_rows: Tensor, *, step_rad: float = _STEP_RAD
) -> tuple[Tensor, Tensor]:
    """Pixels at each step of a common range, int64 [R, S] of both; image n is counted in row ``rows[n]``."""

    def steps(values: Tensor) -> Tensor:
        return torch.floor(values.double() / step_rad + 0.5).long()

    low = min(int(steps(images.min())) for images in (real, fake))
    size = max(int(steps(images.max())) for images in (real, fake)) - low + 1
    if size > _MAX_STEPS:
        raise UserError(f"phases over {size * step_rad:g} rad, more than {_MAX_STEPS} steps: are they in rad?")
    found = []
    for images, rows in ((real, real_rows), (fake, fake_rows)):
        total = rows.new_zeros((int(rows.max()) + 1) * size)
        for part, row in zip(images.split(_CHUNK), rows.split(_CHUNK), strict=True):
            place = steps(part.flatten(1)) - low + row[:, None] * size
            total += torch.bincount(place.flatten(), minlength=len(total))
        found.append(total.reshape(-1, size))
    return found[0], found[1]


def _histogram_gap(first: Tensor, second: Tensor, step_rad: float = _STEP_RAD) -> float:
    """Distance in rad between the sums of two sets of histograms [R, S]."""
    a, b = (counts.sum(0).double().cpu().cumsum(0) / int(counts.sum()) for counts in (first, second))
    return float((a - b).abs().sum() * step_rad)


def radial_power_spectrum(images: Tensor) -> Tensor:
    """Mean power spectrum of images [N, 1, H, W] in rings of one cycle per shorter image side.

    The mean of each image is taken off and a Hann window laid over it. The powers of all frequencies add up to the mean
    square under the window, so a ring's value is in rad² per frequency.

    Returns:
        float64 [F], F = min(H, W) // 2; entry k is the mean over the frequencies nearest to k + 1 cycles per side.
    """
    _check_images(images)
    return _ring_powers(images).mean(0)


def _ring_powers(images: Tensor) -> Tensor:
    """The spectrum of each image, float64 [N, F]."""
    height, width = images.shape[-2:]
    side = min(height, width)
    like: dict[str, Any] = {"dtype": torch.float64, "device": images.device}
    if side < 2:
        raise UserError(f"images of {height}×{width}: a spectrum needs at least 2×2 pixels")
    window = torch.hann_window(height, **like)[:, None] * torch.hann_window(width, **like)
    fy, fx = torch.fft.fftfreq(height, **like), torch.fft.rfftfreq(width, **like)
    ring = torch.floor(torch.hypot(fy[:, None], fx) * side + 0.5).long().clamp_max(side // 2 + 1).flatten()
    # columns between the first and the Nyquist one stand for two frequencies each
    weight = (1 + ((fx > 0) & (fx < 0.5)).double()).expand(height, -1).flatten()
    count = weight.new_zeros(side // 2 + 2).index_add_(0, ring, weight)
    rings = count.new_zeros(len(images), len(count))
    for part, total in zip(images[:, 0].split(_CHUNK), rings.split(_CHUNK), strict=True):
        centred = part.double() - part.double().mean((1, 2), keepdim=True)
        total.index_add_(1, ring, torch.fft.rfft2(centred * window).abs().square().flatten(1) * weight)
    return rings[:, 1:-1] / count[1:-1] / (height * width * window.square().sum())


def spectrum_distance(real: Tensor, fake: Tensor) -> float:
    """Root mean square over rings of the difference of log10 of the spectra of images [N, 1, H, W] and [M, 1, H, W], in
    decades of power.
    """
    _check_images(real, fake)
    return _spectrum_gap(_ring_powers(real), _ring_powers(fake))


def _spectrum_gap(first: Tensor, second: Tensor) -> float:
    a, b = (powers.mean(0).clamp_min(_LEAST_POWER).log10() for powers in (first, second))
    return float((a - b).square().mean().sqrt())


def nearest_distances(queries: Tensor, bank: Tensor, *, side: int = 16, chunk: int = 256) -> Tensor:
    """Root mean square difference of each image to the nearest of a bank, turned and mirrored: tells copies.

    Args:
        queries: images [N, 1, H, W], e.g. generated ones.
        bank: images [M, 1, H, W], e.g. those of the training.
        side: both are averaged over areas to side×side pixels first.
        chunk: images of either at a time.

    Returns:
        float64 [N] in rad; 0 for an image that is in the bank in any of the eight orientations.
    """
    _check_images(queries, bank)
    small, known = (
        torch.cat([adaptive_avg_pool2d(part.double(), side)[:, 0] for part in images.split(chunk)])
        for images in (queries, bank)
    )
    found = []
    for part in small.split(chunk):
        turned = torch.cat([image.rot90(k, (1, 2)) for image in (part, part.flip(2)) for k in range(4)]).flatten(1)
        nearest = turned.new_full((len(turned),), math.inf)
        for others in known.flatten(1).split(chunk):
            # |q - b|² less |q|² finds the nearest; its distance is then taken directly, free of cancellation
            place = (others.square().sum(1) - 2 * turned @ others.T).argmin(1)
            nearest = torch.minimum(nearest, (turned - others[place]).square().mean(1).sqrt())
        found.append(nearest.reshape(8, -1).amin(0))
    return torch.cat(found)


def cell_distances(
    real: Tensor, fake: Tensor, *, pixel_um: float, threshold_rad: float = 0.5, min_area_um2: float = 5.0
) -> dict[str, float]:
    """Differences between the cells of both sets; a cell is a patch of pixels over a threshold that share edges.

    Args:
        real, fake: images [N, 1, H, W] and [M, 1, H, W].
        pixel_um: side of a pixel.
        threshold_rad: pixels with a larger phase are cells.
        min_area_um2: smaller cells are left out, as are those that touch the border.

    Returns:
        ``area_um2``, ``mean_phase_rad``: 1-Wasserstein distance of the cells' areas and mean phases, NaN where one set
        has no whole cell; ``covered_share``: difference of the shares of all pixels over the threshold, 0 to 1.
    """
    _check_images(real, fake)
    limits = (pixel_um, threshold_rad, min_area_um2)
    cells = _find_cells(real, *limits) + _find_cells(fake, *limits)
    index = torch.arange(len(cells)).split([len(real), len(fake)])
    return {name: _cell_gap(cells, name, *index) for name in CELL_SCORES}


def _find_cells(images: Tensor, pixel_um: float, threshold: float = 0.5, min_area: float = 5.0) -> list[dict[str, Any]]:
    """For each image the areas and mean phases of its whole cells, float64 [C], and the covered share."""
    found = []
    for image in images[:, 0].double().cpu().numpy():
        labels, _ = ndimage.label(image > threshold)
        pixels, phases = np.bincount(labels.ravel()), np.bincount(labels.ravel(), weights=image.ravel())
        whole = pixels * pixel_um**2 >= min_area
        whole[np.concatenate([[0], labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
        values = (pixels[whole] * pixel_um**2, phases[whole] / pixels[whole], (labels > 0).mean())
        found.append(dict(zip(CELL_SCORES, values, strict=True)))
    return found


def _cell_gap(cells: list[dict[str, Any]], name: str, first: Tensor, second: Tensor) -> float:
    """Distance between the cells of two selections of images, int64 [N] and [M]."""
    a, b = (np.hstack([cells[number][name] for number in selection.tolist()]) for selection in (first, second))
    if name == "covered_share":
        return float(abs(a.mean() - b.mean()))
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else math.nan


def class_fraction_distance(real_classes: Tensor, fake_classes: Tensor, num_classes: int) -> float:
    """Half the sum of differences of the shares of classes 1 to K - 1 among all pixels that are not background, int of
    any shape. 0: equal shares; 1: no class in common; NaN: one side is all background; UserError: a class out of range.
    """
    shares = []
    for classes in (real_classes, fake_classes):
        if not classes.numel() or int(classes.min()) < 0 or int(classes.max()) >= num_classes:
            raise UserError(f"class maps {list(classes.shape)}: give pixels of classes 0 to {num_classes - 1}")
        counts = torch.bincount(classes.long().flatten(), minlength=num_classes)[1:].double().cpu()
        shares.append(counts / counts.sum())  # 0 / 0 is NaN
    return float((shares[0] - shares[1]).abs().sum() / 2)


def floor_of(
    distance: Distance, images: Tensor, groups: Sequence[Hashable] | Tensor, *, splits: int = 20, seed: int = 0
) -> float:
    """Distance of real data from itself: the mean over random divisions of the groups into two halves.

    Patches of one source image are alike, so a group is never divided. Where a distance falls with the number of
    samples, as :func:`frechet_distance` does, that of halves is larger than a floor of the whole would be.

    Args:
        distance: of two selections of ``images`` along the first axis.
        images: [N, ...], or anything else by image, e.g. features.
        groups: [N], e.g. the source image of each patch; their order has no influence on the divisions.
        splits: how many divisions.
        seed: of the divisions.

    Raises:
        UserError: fewer than 2 groups, or not one for each image.
    """
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)  # tensors would hash by identity
    order = sorted(dict.fromkeys(names), key=repr)
    if len(names) != len(images) or len(order) < 2:
        raise UserError(
            f"{len(images)} images, {len(names)} entries of {len(order)} groups: a floor needs an entry for each image "
            "and at least 2 groups, e.g. two source images"
        )
    number = {name: position for position, name in enumerate(order)}
    numbers = torch.tensor([number[name] for name in names])
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(splits):
        half = torch.randperm(len(order), generator=generator)[: len(order) // 2]
        chosen = torch.isin(numbers, half).to(images.device)
        values.append(distance(images[chosen], images[~chosen]))
    return math.fsum(values) / len(values)


class _Shared(list[Callable[[Tensor], Tensor]]):
    """Keeps a network out of a module's children; copies of the module share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class GenerationScores(Metric):
    """Distances of generated patches from real ones, each beside its floor; right under DDP.

    ``compute()`` gives floats: ``histogram_rad``, ``spectrum_decades``; with ``pixel_um`` ``area_um2``,
    ``mean_phase_rad``, ``covered_share``; with ``features`` ``frechet``, ``kernel``; each also with ``_floor`` behind
    its name, see :func:`floor_of`. ``over_floor``: geometric mean of distance / floor of what is
    there of ``COMPARED``; 1 is as near as real data are to themselves. ``samples``: real patches that were used.

    Args:
        features: network of [N, 1, H, W] in rad, on the metric's device, to [N, D]; in eval mode. It is no part of the
            metric's state.
        pixel_um: side of a pixel, for the cells.
        splits: divisions of the real patches for each floor.
        max_images: only the first so many patches of each kind are used (under DDP those of the first processes).
        **kwargs: passed to :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    # 1-D float32 lists are what torchmetrics can gather also from a process that saw no image.
    real: list[Tensor]
    fake: list[Tensor]
    groups: list[Tensor]
    size: Tensor

    def __init__(
        self,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        pixel_um: float | None = None,
        splits: int = 20,
        max_images: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if splits < 1 or max_images < 2:
            raise ValueError(f"splits is {splits} and max_images {max_images}: at least 1 and 2 are needed")
        self._features = _Shared([] if features is None else [features])
        self.pixel_um, self.splits, self.max_images = pixel_um, splits, max_images
        for name in ("real", "fake", "groups"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("size", default=torch.zeros(2, dtype=torch.long), dist_reduce_fx="max")

    def update(self, real: Tensor, fake: Tensor, groups: Tensor) -> None:
        """Add patches.

        Args:
            real, fake: images [N, 1, H, W] and [M, 1, H, W].
            groups: int64 [N], number of the source image of each real patch, 0 to 2^24 - 1.

        Raises:
            UserError: bad images, of another size than before, or bad groups.
        """
        _check_images(real, fake)
        if groups.shape != real.shape[:1] or int(groups.min()) < 0 or int(groups.max()) >= _MOST_GROUPS:
            raise UserError(f"groups {list(groups.shape)} of {len(real)} patches: give one for each, 0 to 2^24 - 1")
        size = torch.tensor(real.shape[2:], device=self.device)
        if self.size.any() and not torch.equal(self.size, size):
            raise UserError(f"patches of {size.tolist()} after {self.size.tolist()} pixels: give one size")
        self.size = size
        for state, values in ((self.real, real), (self.fake, fake), (self.groups, groups)):
            room = max(self.max_images * values[0].numel() - sum(map(len, state)), 0)
            state.append(values.detach().to(self.device, torch.float32).flatten()[:room].clone())

    def compute(self) -> dict[str, float]:
        """All scores, see the class; fewer than 2 groups of real patches raise a UserError."""
        if not self.size.any():
            raise UserError("no patches to compare: update the scores first")
        real, fake = (
            dim_zero_cat(state).reshape(-1, 1, *self.size.tolist())[: self.max_images]
            for state in (self.real, self.fake)
        )
        groups = dim_zero_cat(self.groups)[: self.max_images].long()
        names, rows = groups.unique(return_inverse=True)
        results = {}

        def add(name: str, distance: Distance, first: Tensor, second: Tensor, groups: Tensor = groups) -> None:
            results[name] = distance(first, second)
            results[f"{name}_floor"] = floor_of(distance, first, groups, splits=self.splits)

        add("histogram_rad", _histogram_gap, *_histograms(real, fake, rows, groups.new_zeros(len(fake))), names)
        add("spectrum_decades", _spectrum_gap, _ring_powers(real), _ring_powers(fake))
        if self.pixel_um is not None:
            cells = _find_cells(torch.cat([real, fake]), self.pixel_um)
            index = torch.arange(len(cells)).split([len(real), len(fake)])
            for name in CELL_SCORES:
                add(name, functools.partial(_cell_gap, cells, name), *index)
        for network in self._features:
            with torch.no_grad():
                pair = [torch.cat([network(part) for part in images.split(_CHUNK)]) for images in (real, fake)]
            add("frechet", frechet_distance, *pair)
            add("kernel", kernel_distance, *pair)
        compared = [name for name in COMPARED if not math.isnan(results.get(f"{name}_floor", math.nan))]
        found = [_MOST if math.isnan(results[name]) else results[name] for name in compared]  # nan: no whole cell
        ratios = [v / max(results[f"{name}_floor"], _LEAST_FLOOR) for name, v in zip(compared, found, strict=True)]
        return results | {"over_floor": math.prod(ratios) ** (1 / len(ratios)), "samples": float(len(real))}
