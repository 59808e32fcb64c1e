import numpy as np
import pytest
import torch
from torch import Tensor

from hemolens.postprocess.tiles import join_tiles, tile_grid


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(100, 100, 100, 10), (101, 300, 64, 16), (640, 65, 64, 0), (7, 999, 50, 49)],
)
def test_tiles_cover_the_picture_and_overlap_enough(height: int, width: int, tile: int, overlap: int) -> None:
    tiles = tile_grid(height, width, tile, overlap)
    seen = np.zeros((height, width), dtype=int)
    for t in tiles:
        assert 0 <= t.x1 < t.x2 <= width and 0 <= t.y1 < t.y2 <= height
        assert t.x2 - t.x1 == min(tile, width) and t.y2 - t.y1 == min(tile, height)
        seen[t.y1 : t.y2, t.x1 : t.x2] += 1
    assert seen.min() >= 1
    for starts, ends in (
        (sorted({t.x1 for t in tiles}), sorted({t.x2 for t in tiles})),
        (sorted({t.y1 for t in tiles}), sorted({t.y2 for t in tiles})),
    ):
        assert all(end - start >= overlap for start, end in zip(starts[1:], ends, strict=False))


def test_one_tile_where_the_picture_fits() -> None:
    assert tile_grid(50, 60, 60, 20) == [(0, 0, 60, 50)]


@pytest.mark.parametrize("overlap", [-1, 64, 100])
def test_overlap_out_of_range(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap_px"):
        tile_grid(100, 100, 64, overlap)


def seen_in(tile: tuple[int, int, int, int], boxes: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """What a perfect detector finds in a tile, in its pixels: boxes cut at its border, each a little off."""
    x1, y1, x2, y2 = tile
    cut = torch.stack(
        [
            boxes[:, 0].clamp(min=x1),
            boxes[:, 1].clamp(min=y1),
            boxes[:, 2].clamp(max=x2),
            boxes[:, 3].clamp(max=y2),
        ],
        1,
    )
    index = ((cut[:, 2:] - cut[:, :2]) > 3).all(dim=1).nonzero()[:, 0]  # a sliver is not seen
    return cut[index] + noise[index] - torch.tensor([x1, y1, x1, y1]), index


@pytest.mark.parametrize("noise_px", [0.0, 1.0])
def test_every_cell_is_found_once(noise_px: float) -> None:
    generator = torch.Generator().manual_seed(0)
    height, width, pitch = 500, 700, 50
    # one cell in each square of a lattice, so that none suppresses another, of 5 to 36 px
    ys, xs = torch.meshgrid(torch.arange(0, height, pitch), torch.arange(0, width, pitch), indexing="ij")
    corner = torch.stack([xs.flatten(), ys.flatten()], 1) + 12 * torch.rand(len(xs.flatten()), 2, generator=generator)
    boxes = torch.cat([corner, corner + 5 + 31 * torch.rand(corner.shape, generator=generator)], 1)
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    tiles = tile_grid(height, width, 200, 60)
    assert len(tiles) > 9
    found = []
    for tile in tiles:
        noise = noise_px * (2 * torch.rand(boxes.shape, generator=generator) - 1)
        seen, index = seen_in(tile, boxes, noise)
        scores = 0.5 + 0.5 * torch.rand(len(index), generator=generator)
        found.append({"boxes": seen, "scores": scores, "labels": labels[index]})
    joined = join_tiles(tiles, found, height, width, nms_iou=0.4)
    assert len(joined["boxes"]) == len(boxes)
    distance = (joined["boxes"][:, None] - boxes[None]).abs().amax(dim=2)
    nearest = distance.min(dim=1)
    assert (nearest.values <= noise_px + 1e-4).all()
    assert sorted(nearest.indices.tolist()) == list(range(len(boxes)))
    assert torch.equal(joined["labels"], labels[nearest.indices])
    assert (joined["scores"].diff() <= 0).all()


def test_neighbours_of_another_class_stay() -> None:
    box = torch.tensor([[10.0, 10, 20, 20]])
    one = {"boxes": box.repeat(2, 1), "scores": torch.tensor([0.5, 0.9]), "labels": torch.tensor([0, 1])}
    joined = join_tiles(tile_grid(30, 30, 30, 5), [one], 30, 30, nms_iou=0.5)
    assert joined["labels"].tolist() == [1, 0]
    assert joined["scores"].tolist() == pytest.approx([0.9, 0.5])
