import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import mask as coco_masks

from hemolens.errors import UserError
from hemolens.io.coco import coco_dict, mask_of, read_coco, run_lengths, write_coco
from hemolens.io.detections import ImageDetections

NAMES = ("RBC", "WBC", "Platelets")


def detections(name: str, boxes: list, labels: list, scores: list, size: tuple[int, int] = (48, 64)) -> ImageDetections:
    return ImageDetections(name, *size, np.array(boxes), np.array(labels), np.array(scores))


def example() -> list[ImageDetections]:
    first = detections("a/field 1.png", [[1.5, 2.0, 11.5, 22.0], [0, 0, 64, 48]], [2, 0], [0.875, 0.25])
    return [first, detections("leer_ö.tif", [], [], [], (1444, 1000))]


def test_layout() -> None:
    assert coco_dict(example(), NAMES, {"checkpoint": "best.ckpt"}) == {
        "info": {"checkpoint": "best.ckpt"},
        "licenses": [],
        "images": [
            {"id": 1, "file_name": "a/field 1.png", "width": 64, "height": 48},
            {"id": 2, "file_name": "leer_ö.tif", "width": 1000, "height": 1444},
        ],
        "categories": [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}, {"id": 3, "name": "Platelets"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [1.5, 2.0, 10.0, 20.0],
                "area": 200.0,
                "segmentation": [],
                "iscrowd": 0,
                "score": 0.875,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0.0, 0.0, 64.0, 48.0],
                "area": 3072.0,
                "segmentation": [],
                "iscrowd": 0,
                "score": 0.25,
            },
        ],
    }


def test_round_trip_keeps_a_thousandth_of_a_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 700, (50, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    written = detections("a.png", boxes, rng.integers(0, 3, 50), rng.random(50), (700, 700))
    write_coco(tmp_path / "c.json", [*example(), written], NAMES)
    images, names = read_coco(tmp_path / "c.json")
    assert names == NAMES
    assert [image.file_name for image in images] == ["a/field 1.png", "leer_ö.tif", "a.png"]
    assert [(image.height, image.width, len(image)) for image in images] == [
        (48, 64, 2),
        (1444, 1000, 0),
        (700, 700, 50),
    ]
    assert images[1].boxes.shape == (0, 4)
    np.testing.assert_allclose(images[2].boxes, written.boxes, atol=1.1e-3)
    np.testing.assert_array_equal(images[2].labels, written.labels)
    np.testing.assert_allclose(images[2].scores, written.scores, atol=1e-6)


def test_read_ground_truth_of_another_tool(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "x.jpg", "width": 10, "height": 10}],
        "categories": [{"id": 9, "name": "late"}, {"id": 4, "name": "early", "supercategory": "cell"}],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    (image,), names = read_coco(tmp_path / "c.json")
    assert names == ("early", "late")
    assert image.boxes.tolist() == [[1, 2, 4, 6]]
    assert image.labels.tolist() == [1]
    assert image.scores.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "not COCO JSON"),
        (
            {"annotations": [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
            "does not list",
        ),
        (
            {"annotations": [{"id": 1, "image_id": 1, "category_id": 8, "bbox": [0, 0, 1, 1]}]},
            "does not list",
        ),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 1}]}, "no key 'bbox'"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0]}]}, "not COCO JSON"),
        (
            {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 1}]},
            "crowd",
        ),
    ],
)
def test_broken_file_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "broken.json"
    content = {
        "images": [{"id": 1, "file_name": "x", "width": 1, "height": 1}],
        "categories": [{"id": 1, "name": "RBC"}],
        "annotations": [],
    }
    path.write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message) as error:
        read_coco(path)
    assert "broken.json" in str(error.value)


def test_missing_and_cut_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_coco(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(UserError, match="not valid JSON"):
        read_coco(tmp_path / "cut.json")


def test_refusals_write_nothing(tmp_path: Path) -> None:
    unnamed = detections("a.png", [[0, 0, 1, 1]], [3], [0.5])
    with pytest.raises(UserError, match="label 3 has no name"):
        write_coco(tmp_path / "c.json", [unnamed], NAMES)
    with pytest.raises(UserError, match=r"a/field 1\.png occurs twice"):
        write_coco(tmp_path / "c.json", [*example(), example()[0]], NAMES)
    assert list(tmp_path.iterdir()) == []
    write_coco(tmp_path / "c.json", [], NAMES)
    with pytest.raises(UserError, match="exists"):
        write_coco(tmp_path / "c.json", example(), NAMES)
    write_coco(tmp_path / "c.json", example(), NAMES, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_arrays_must_belong_together() -> None:
    with pytest.raises(ValueError, match="as many labels and scores"):
        detections("a.png", [[0, 0, 1, 1]], [0, 1], [0.5])
    with pytest.raises(ValueError, match="finite"):
        detections("a.png", [[0, 0, 1, np.nan]], [0], [0.5])
    with pytest.raises(ValueError, match="labels 0 or more"):
        detections("a.png", [[0, 0, 1, 1]], [-1], [0.5])


@pytest.mark.parametrize("shape", [(5, 7), (1, 4), (6, 1), (3, 3), (60, 90)])
def test_run_lengths_repeat_masks(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for mask in (*(rng.uniform(size=shape) < share for share in (0.2, 0.5, 0.9)), np.ones(shape, bool)):
        found = run_lengths(mask)
        flat = mask.ravel(order="F")
        literal = [len(list(group)) for _, group in itertools.groupby(flat)]
        assert found == {"size": list(shape), "counts": ([0] if flat[0] else []) + literal}
        assert (mask_of(found) == mask).all()
        size = (shape[0] + 4, shape[1] + 4)
        whole = np.zeros(size, bool)
        whole[2 : 2 + shape[0], 3 : 3 + shape[1]] = mask
        assert (mask_of(run_lengths(mask, (2, 3), size)) == whole).all()
        compressed = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (mask_of({"size": list(shape), "counts": compressed["counts"].decode()}) == mask).all()
    empty = run_lengths(np.zeros(shape, bool))
    assert not mask_of(empty).any()
