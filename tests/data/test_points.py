"""Crops around points: where they lie, what is left out, and that no image is in two parts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemolens.data.classification import CropSpec, collate_classification
from hemolens.data.points import CHULA_TYPES, PointCellDataset, cut_cells
from hemolens.errors import UserError

POINTS = {
    "12": "20 15 0\n30 16 8\n4 20 3\n30 30 4\n",
    "3": "8 8 0\n7 8 0\n52 40 5\n53 40 5\n52 41 5\n",
    "x": "9 9 7\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 48x60 whose red is the row and green the column, and points near and on the border."""
    rows, columns = np.mgrid[:48, :60].astype(np.uint8)
    for name in ("Dataset", "Label"):
        (tmp_path / name).mkdir()
    for name, text in POINTS.items():
        Image.fromarray(np.stack([rows, columns, 0 * rows], 2)).save(tmp_path / "Dataset" / f"{name}.png")
        (tmp_path / "Label" / f"{name}.txt").write_text(text)
    return tmp_path


def test_crops_are_around_their_points(folder: Path) -> None:
    cells = cut_cells(folder, side_px=16)
    assert (cells.pixels.shape, cells.pixels.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert [tuple(crop[:2, 8, 8].tolist()) for crop in cells.pixels] == [(15, 20), (16, 30), (8, 8), (40, 52)]
    assert cells.pixels[2, 0, :, 0].tolist() == list(range(16))
    assert cells.labels.tolist() == [0, 3, 0, 2]
    assert cells.images.tolist() == ["12", "12", "3", "3"]
    assert cells.class_names == tuple(CHULA_TYPES) == ("normal", "spherocyte", "stomatocyte", "burr_cell")
    assert cells.left_out == {"normal": 1, "spherocyte": 1, "stomatocyte": 2, "burr_cell": 0}
    assert cells.counts() == {"normal": 2, "spherocyte": 0, "stomatocyte": 1, "burr_cell": 1}
    assert cells.counts([2]) == {"normal": 1, "spherocyte": 0, "stomatocyte": 0, "burr_cell": 0}
    odd = cut_cells(folder, {"target": 4, "teardrop": 7}, side_px=9)
    assert odd.labels.tolist() == [0, 1] and odd.pixels[0, :2, 4, 4].tolist() == [30, 30]


def test_parts_share_no_image(folder: Path) -> None:
    cells = cut_cells(folder, side_px=2)
    train, test = cells.split((0.5, 0.5), seed=0)
    assert sorted(train + test) == list(range(len(cells)))
    assert not set(cells.images[train]) & set(cells.images[test])
    assert cells.split((0.5, 0.5), seed=0) == [train, test]


def test_network_input_ignores_the_crop_of_another_set(folder: Path) -> None:
    cells = cut_cells(folder, side_px=16)
    spec = CropSpec(image_px=32, crop_px=256, mean=(0.5,) * 3, std=(0.25,) * 3)
    batch = collate_classification([PointCellDataset(cells, spec=spec)[index] for index in (0, 3)])
    assert (batch["images"].shape, batch["images"].dtype) == ((2, 3, 32, 32), torch.float32)
    assert batch["labels"].tolist() == [0, 2]
    assert batch["image_ids"] == ["12 (0)", "3 (3)"]
    expected = (cells.pixels[[0, 3]].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(batch["images"].mean((2, 3)), expected.mean((2, 3)), atol=0.01, rtol=0)
    same = PointCellDataset(cells, spec=CropSpec(image_px=16))[1]["image"]
    torch.testing.assert_close(same, cells.pixels[1].float() / 255)


def test_refusals(folder: Path) -> None:
    cells = cut_cells(folder, side_px=16)
    with pytest.raises(UserError, match="takes 1"):
        PointCellDataset(cells, spec=CropSpec(in_channels=1))
    with pytest.raises(UserError, match="lower side_px"):
        cut_cells(folder, side_px=49)
    with pytest.raises(UserError, match="side_px=0"):
        cut_cells(folder, side_px=0)
    Image.fromarray(np.zeros((48, 60), np.uint16)).save(folder / "Dataset" / "3.png")
    with pytest.raises(UserError, match=r"3\.png: values of type uint16"):
        cut_cells(folder, side_px=16)
    (folder / "Label" / "3.txt").unlink()
    with pytest.raises(UserError, match=r"3\.txt: no such file"):
        cut_cells(folder, side_px=16)


def test_cells_of_the_real_set(shared_data: Path) -> None:
    """With the cells at the edge they are as many as the set's description says."""
    cells = cut_cells(shared_data / "chula_rbc12")
    told = {"normal": 4986, "spherocyte": 3449, "stomatocyte": 1996, "burr_cell": 785}
    assert {name: count + cells.left_out[name] for name, count in cells.counts().items()} == told
    assert cells.left_out == {"normal": 911, "spherocyte": 546, "stomatocyte": 315, "burr_cell": 122}
    assert cells.pixels.shape == (9322, 3, 72, 72)
    train, test = cells.split()
    assert (len(set(cells.images[train])), len(set(cells.images[test]))) == (210, 90)  # 2 of 302 without such a cell
    assert all(cells.counts(part)[name] > 100 for part in (train, test) for name in told)
