"""The script that makes the tests' data, as a user calls it."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from hemolens.data.detection import read_voc_records
from hemolens.io.images import read_image

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_test_data.py"


def test_script_writes_a_readable_folder(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "voc"), "--images", "5", "--seed", "3"]
    subprocess.run(command, check=True, capture_output=True)
    records = read_voc_records(tmp_path / "voc", "trainval", ["RBC", "WBC", "Platelets"])
    assert len(records) == 4
    for record in records:
        image = read_image(record.image_path)
        for (x0, y0, x1, y1), label in zip(record.boxes.astype(int), record.labels, strict=True):
            if label == 1:  # the middle of a white cell, unless another cell lies on it, is violet
                middle = np.median(image[y0:y1, x0:x1].reshape(-1, 3), axis=0)
                assert middle[2] > middle[1] + 10
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode != 0 and "exists" in again.stderr


def test_script_writes_a_folder_of_cells_a_class(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "cells"), "--images", "3", "--cells"]
    subprocess.run(command, check=True, capture_output=True)
    for name, is_violet in (("WBC", True), ("RBC", False)):
        files = sorted((tmp_path / "cells" / name).glob("*.png"))
        assert len(files) == 3
        red, _, blue = read_image(files[0])[20, 23].astype(int)
        assert (blue > red) == is_violet
