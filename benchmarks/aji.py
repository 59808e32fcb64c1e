"""The aggregated Jaccard index of one image, against a loop over cells and predictions."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Comparison, Options, Side
from hemolens.metrics.segmentation import aggregated_jaccard_index

TARGETS = {200: 20.0, 2000: 100.0}  # cells: ratio asked for
IMAGE_PX, MISSING = 900, 0.1


def comparisons(options: Options) -> Iterator[Comparison]:
    """900×900 px with cells on a grid, predictions shifted by a quarter; a tenth of either is missing."""
    for count, target in TARGETS.items():
        cells = count // 20 if options.quick else count
        true, pred = made_up(cells)

        def ours(pred: Tensor = pred, true: Tensor = true) -> float:
            return aggregated_jaccard_index(pred, true)

        def peer(pred: Tensor = pred, true: Tensor = true) -> float:
            return literal(pred.numpy(), true.numpy())

        yield Comparison(
            f"cells_{count}",
            Side("aggregated_jaccard_index", {"counts": "all overlaps in one pass over the pixels"}, ours),
            Side("loop over cells, overlaps from masks", {"masks": "of the whole image"}, peer),
            same,
            "equal to 1e-12",
            target=target,
            most_pairs=3 if count > 1000 else None,
            work={"image": f"{true.shape[0]}×{true.shape[1]}", "true cells": cells},
        )


def made_up(count: int) -> tuple[Tensor, Tensor]:
    """True and predicted instance maps, int64."""
    columns = int(np.ceil(np.sqrt(count)))
    pitch, rng = IMAGE_PX // columns, np.random.default_rng(0)
    side, shift = 3 * pitch // 4, pitch // 5
    true, pred = np.zeros((IMAGE_PX, IMAGE_PX), np.int64), np.zeros((IMAGE_PX, IMAGE_PX), np.int64)
    for number in range(count):
        y, x = (pitch * part + pitch // 8 for part in divmod(number, columns))
        if rng.uniform() > MISSING:
            true[y : y + side, x : x + side] = number + 1
        if rng.uniform() > MISSING:
            dy, dx = rng.integers(-shift, shift + 1, 2).tolist()
            pred[max(y + dy, 0) : y + dy + side, max(x + dx, 0) : x + dx + side] = count + number + 1
    return torch.from_numpy(true), torch.from_numpy(pred)


def literal(pred: np.ndarray, true: np.ndarray) -> float:
    """Kumar et al. 2017, Algorithm 1; a prediction may be used again. Only overlapping predictions are looked at."""
    masks = {int(number): pred == number for number in np.unique(pred) if number}
    intersection = union = 0
    used: set[int] = set()
    for number in np.unique(true)[1:].tolist():
        own = true == number
        best, score, parts = 0, 0.0, (0, 0)
        for other in np.unique(pred[own]).tolist():
            if not other:
                continue
            both, either = int((own & masks[other]).sum()), int((own | masks[other]).sum())
            if both / either > score:
                best, score, parts = other, both / either, (both, either)
        if best:
            used.add(best)
            intersection, union = intersection + parts[0], union + parts[1]
        else:
            union += int(own.sum())
    return intersection / (union + sum(int(mask.sum()) for number, mask in masks.items() if number not in used))


def same(ours: float, peer: float) -> dict[str, float]:
    """Difference of the two."""
    assert abs(ours - peer) <= 1e-12, f"{ours} and {peer} differ"
    return {"difference": abs(ours - peer)}
