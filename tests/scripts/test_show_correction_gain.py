"""The stand-in for a person who corrects: only what was chosen, under the names of pictures."""

import json
from pathlib import Path

from hemolens.io.coco import read_coco

from ..conftest import REPOSITORY, load_module


def test_the_truth_of_the_chosen_fields_is_written(tmp_path: Path) -> None:
    script = load_module(REPOSITORY / "scripts" / "show_correction_gain.py")
    truth = {
        "images": [
            {"id": i, "file_name": f"volumes/{n}.tcf", "width": 9, "height": 8} for i, n in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(script.CLASSES, start=1)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]},
            {"id": 2, "image_id": 2, "category_id": 4, "bbox": [1, 2, 3, 4]},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(truth))
    counts = script.correct(tmp_path, ["volumes/b.tcf"], tmp_path / "corrected.json")
    assert counts == {"RBC": 0, "PLT": 0, "WBC": 0, "ARBC": 1}
    (image,), names = read_coco(tmp_path / "corrected.json")
    assert image.file_name == "b.png"
    assert image.boxes.tolist() == [[1, 2, 4, 6]]
    assert names[image.labels[0]] == "ARBC"
    assert script.scores({"test/map": 0.12345, **dict.fromkeys(other_keys(script), 1.0)}, "test")["map"] == 0.1235


def other_keys(script) -> list[str]:
    return [*(f"test/ap_{name}" for name in script.CLASSES), "test/accuracy", "test/n_missed", "test/n_spurious"]
