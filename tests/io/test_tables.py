from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.io.detections import ImageDetections
from hemolens.io.tables import write_counts_csv, write_csv, write_detections_csv

NAMES = ("RBC", "WBC", "Platelets, large")


def example() -> list[ImageDetections]:
    boxes = np.array([[1.5, 2, 11.25, 22], [0.5, 5, 20, 30], [10, 10, 30, 47.5], [40, 10, 63, 20]])
    scores = np.array([0.875, 0.3, 1 / 3, 0.1])
    first = ImageDetections("a/1.png", 48, 64, boxes, np.array([2, 0, 0, 0]), scores)
    return [first, ImageDetections("2.png", 10, 20, np.zeros((0, 4)), np.zeros(0), np.zeros(0))]


def test_detections(tmp_path: Path) -> None:
    write_detections_csv(tmp_path / "d.csv", example(), NAMES)
    assert (tmp_path / "d.csv").read_text() == (
        "image,class,score,x1,y1,x2,y2,width_px,height_px,touches_border\n"
        'a/1.png,"Platelets, large",0.875,1.5,2.0,11.25,22.0,9.75,20.0,0\n'
        "a/1.png,RBC,0.3,0.5,5.0,20.0,30.0,19.5,25.0,1\n"
        "a/1.png,RBC,0.333333,10.0,10.0,30.0,47.5,20.0,37.5,1\n"
        "a/1.png,RBC,0.1,40.0,10.0,63.0,20.0,23.0,10.0,1\n"
    )


def test_counts_include_empty_images_and_absent_classes(tmp_path: Path) -> None:
    write_counts_csv(tmp_path / "c.csv", example(), NAMES)
    assert (tmp_path / "c.csv").read_text() == (
        'image,image_width_px,image_height_px,total,n_RBC,n_WBC,"n_Platelets, large"\n'
        "a/1.png,64,48,4,3,0,1\n"
        "2.png,20,10,0,0,0,0\n"
    )


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[list[int]]:
        yield [1]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_csv(tmp_path / "d.csv", ["a"], rows())
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept(tmp_path: Path) -> None:
    write_counts_csv(tmp_path / "c.csv", example(), NAMES)
    before = (tmp_path / "c.csv").read_text()
    with pytest.raises(UserError, match="exists"):
        write_counts_csv(tmp_path / "c.csv", [], NAMES)
    assert (tmp_path / "c.csv").read_text() == before
    write_counts_csv(tmp_path / "c.csv", [], NAMES, overwrite=True)
    assert (tmp_path / "c.csv").read_text().count("\n") == 1


def test_label_without_name(tmp_path: Path) -> None:
    for write in (write_detections_csv, write_counts_csv):
        with pytest.raises(UserError, match="label 2 has no name"):
            write(tmp_path / "x.csv", example(), NAMES[:2])
    assert list(tmp_path.iterdir()) == []
