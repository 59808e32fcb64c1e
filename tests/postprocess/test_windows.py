"""Class maps of images of any size: every way of going through gives what the network says of each pixel."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from hemolens.errors import UserError
from hemolens.postprocess.tiles import tile_grid
from hemolens.postprocess.windows import WHOLE_PX, mirrored, segment_image, whole_pass

STRIDE = 8
MODES = {
    "whole": {"mode": "whole"},
    "windows": {"mode": "windows", "window_px": 32, "overlap_px": 12},
    "windows_without_overlap": {"mode": "windows", "window_px": 24, "overlap_px": 0},
    "paper": {"mode": "paper", "patch_px": 32},
}


class PixelNet:
    """A 1x1 convolution: what it says of a pixel does not depend on its place. Keeps the shapes it was given."""

    def __init__(self, classes: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = 3 * torch.randn(classes, 2, generator=generator)
        self.bias = torch.randn(classes, generator=generator)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        assert all(side % STRIDE == 0 and side > 0 for side in images.shape[-2:])
        self.shapes.append(tuple(images.shape))
        return torch.einsum("kc,bchw->bkhw", self.weight, images) + self.bias[:, None, None]


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (5, 7), (3, 70), (1, 1), (130, 33)])
@pytest.mark.parametrize("mode", MODES)
def test_a_network_of_single_pixels_gives_the_same_in_every_mode(mode: str, size: tuple[int, int]) -> None:
    net, image = PixelNet(), picture(*size)
    found = segment_image(net, image, stride=STRIDE, batch_size=3, **MODES[mode])
    probability = (torch.einsum("kc,chw->khw", net.weight, image) + net.bias[:, None, None]).softmax(0)
    assert found.classes.shape == found.probability.shape == size
    assert (found.classes.dtype, found.probability.dtype) == (np.uint8, np.float32)
    assert np.array_equal(found.classes, probability.argmax(0).numpy())
    np.testing.assert_allclose(found.probability, probability.amax(0), rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_no_more_than_a_batch_goes_through_at_once(mode: str, batch_size: int) -> None:
    net = PixelNet()
    segment_image(net, picture(75, 150), stride=STRIDE, batch_size=batch_size, **MODES[mode])
    assert max(shape[0] for shape in net.shapes) <= batch_size
    if mode == "whole":
        assert net.shapes == [(1, 2, 80, 152)]
    else:
        side = 24 if mode == "windows_without_overlap" else 32
        assert {shape[2:] for shape in net.shapes} == {(side, side)}
        rows, columns = {32: (3, 5), 24: (4, 7)}[side]
        if mode == "windows":  # at least 12 px of 32 are shared: a step of 20 at most
            rows, columns = 4, 7
        assert sum(shape[0] for shape in net.shapes) == rows * columns


def test_auto_goes_by_the_longer_side() -> None:
    for width, expected in ((WHOLE_PX, (1, 2, 8, WHOLE_PX)), (WHOLE_PX + 1, (1, 2, 8, 1024))):
        net = PixelNet()
        segment_image(net, picture(8, width), stride=STRIDE, batch_size=1)
        assert net.shapes[0] == expected


@pytest.mark.parametrize("size", [(9, 5), (9, 12), (17, 20), (23, 5), (64, 70), (30, 41)])
def test_the_mirror_is_numpys(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 9, 5)).astype(np.float32)
    added = [(0, 0), (0, 0), (0, size[0] - 9), (0, size[1] - 5)]
    found = mirrored(torch.from_numpy(image), *size)
    assert np.array_equal(found.numpy(), np.pad(image, added, mode="reflect"))


def test_the_mirror_of_a_single_row_or_column_repeats_it() -> None:
    row = torch.arange(5.0)[None, None, None]
    assert torch.equal(mirrored(row, 7, 5), row.expand(1, 1, 7, 5))
    column = row.transpose(2, 3)
    assert torch.equal(mirrored(column, 5, 11), column.expand(1, 1, 5, 11))
    assert torch.equal(mirrored(row, 1, 5), row)


def test_a_whole_pass_sees_the_mirror_and_gives_the_image_back() -> None:
    seen: list[Tensor] = []

    def net(images: Tensor) -> Tensor:
        seen.append(images)
        return images[:, :1] * 2

    image = picture(13, 22)[None]
    found = whole_pass(net, image, 16)
    assert torch.equal(found, 2 * image[:, :1])
    assert np.array_equal(seen[0].numpy(), np.pad(image.numpy(), [(0, 0), (0, 0), (0, 3), (0, 10)], mode="reflect"))


def placed(images: Tensor) -> Tensor:
    """Logits that depend on the place inside the window alone: 0 against (column - row) / 8."""
    height, width = images.shape[-2:]
    ramp = (torch.arange(width)[None] - torch.arange(height)[:, None]) / 8
    return torch.stack([torch.zeros(height, width), ramp]).expand(len(images), 2, height, width)


def literal_blend(height: int, width: int, window: int, overlap: int) -> np.ndarray:
    """Weighted mean of the windows' second logit, pixel by pixel."""
    sums, weights = np.zeros((height, width)), np.zeros((height, width))
    for tile in tile_grid(height, width, window, overlap):
        for y in range(tile.y1, tile.y2):
            for x in range(tile.x1, tile.x2):
                weight = 1.0
                for at, first, end in ((y, tile.y1, tile.y2), (x, tile.x1, tile.x2)):
                    weight *= min(1.0, (min(at - first, end - 1 - at) + 1) / (overlap + 1))
                sums[y, x] += weight * ((x - tile.x1) - (y - tile.y1)) / 8
                weights[y, x] += weight
    return sums / weights


@pytest.mark.parametrize(("size", "overlap"), [((72, 100), 16), ((33, 90), 8)])
def test_windows_are_blended_without_seams(size: tuple[int, int], overlap: int) -> None:
    image = torch.zeros(1, *size)
    found = segment_image(placed, image, stride=STRIDE, mode="windows", window_px=32, overlap_px=overlap)
    expected = literal_blend(*size, 32, overlap)
    shares = 1 / (1 + np.exp(-expected))
    clear = np.abs(expected) > 1e-4
    assert np.array_equal(found.classes[clear], (expected > 0)[clear])
    np.testing.assert_allclose(found.probability, np.maximum(shares, 1 - shares), atol=1e-5)
    # the probability of class 1 moves by its own slope and by what the taper lets through, never at once
    of_one = np.where(found.classes == 1, found.probability, 1 - found.probability)
    logit = np.log(of_one / (1 - of_one))
    jump = max(np.abs(np.diff(logit, axis=axis)).max() for axis in (0, 1))
    between = max(b - a for a, b in pairwise(sorted({t.x1 for t in tile_grid(*size, 32, overlap)})))
    assert jump < 1 / 8 + 2 * between / 8 / (overlap + 1)
    hard = segment_image(placed, image, stride=STRIDE, mode="paper", patch_px=32).probability[0, : size[1]]
    assert np.abs(np.diff(np.log(hard / (1 - hard)))).max() > 2 * jump  # patches edge to edge do jump


def test_the_papers_patches_are_a_loop_over_windows_edge_to_edge() -> None:
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(3, 2, 5, 5, generator=generator)

    def net(images: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(images, kernel, padding=2)

    height, width, side = 50, 75, 32
    image = picture(height, width)
    found = segment_image(net, image, stride=STRIDE, mode="paper", patch_px=side, batch_size=4)
    large = np.pad(image.numpy(), [(0, 0), (0, 64 - height), (0, 96 - width)], mode="reflect")
    for y in range(0, height, side):
        for x in range(0, width, side):
            patch = torch.from_numpy(large[:, y : y + side, x : x + side])[None]
            probability, classes = net(patch)[0].softmax(0).max(0)
            here = np.s_[y : min(y + side, height), x : min(x + side, width)]
            rows, columns = found.classes[here].shape
            assert np.array_equal(found.classes[here], classes[:rows, :columns].numpy())
            np.testing.assert_allclose(found.probability[here], probability[:rows, :columns], rtol=1e-5)


def test_half_precision_logits_are_summed_in_single() -> None:
    def net(images: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(images[:, 0]), 0.01 + 0 * images[:, 0]], 1).to(torch.bfloat16)

    found = segment_image(net, picture(70, 70), stride=STRIDE, mode="windows", window_px=32, overlap_px=8)
    assert (found.classes == 1).all()
    expected = 1 / (1 + np.exp(-float(torch.tensor(0.01, dtype=torch.bfloat16))))
    np.testing.assert_allclose(found.probability, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "tiles"}, "mode=tiles: choose from auto, whole, windows, paper"),
        ({"mode": "windows", "window_px": 32, "overlap_px": 32}, "overlap_px=32: must be at least 0 and below"),
        ({"mode": "windows", "window_px": 32, "overlap_px": -1}, "overlap_px=-1"),
        ({"mode": "windows", "window_px": 0, "overlap_px": 0}, "window_px=0"),
        ({"mode": "paper", "patch_px": 100}, "patch_px=100: the network takes multiples of 8 px"),
        ({"mode": "paper", "patch_px": 0}, "patch_px=0"),
        ({"mode": "windows", "batch_size": 0}, "batch_size=0"),
        ({"mode": "paper", "batch_size": -2}, "batch_size=-2"),
    ],
)
def test_slips(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        segment_image(PixelNet(), picture(40, 40), stride=STRIDE, **options)
