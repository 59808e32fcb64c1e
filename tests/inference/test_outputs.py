import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemolens.errors import UserError
from hemolens.inference.outputs import DetectedImage, write_detection_outputs
from hemolens.inference.ranking import ImageUncertainty
from hemolens.io.coco import is_untouched_export, read_coco
from hemolens.io.detections import ImageDetections

NAMES = ("RBC", "WBC")


def result(name: str, boxes: list[list[float]], label: int = 0) -> DetectedImage:
    count = len(boxes)
    found = ImageDetections(name, 40, 60, np.array(boxes), np.full(count, label), np.linspace(0.9, 0.5, count))
    return DetectedImage(found, np.zeros((40, 60), np.uint8), ImageUncertainty(0.25 * count, count, 0, 0, ""))


def example() -> list[DetectedImage]:
    return [result("a.png", [[5, 5, 20, 20], [30, 10, 50, 30]]), result("sub/b.tif", [])]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_everything_is_there_and_agrees(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    write_detection_outputs(folder, iter(example()), NAMES, info={"checkpoint": "best.ckpt"})
    assert files(tmp_path / "new") == [
        "out/counts.csv",
        "out/detections.csv",
        "out/detections_coco.json",
        "out/geojson/a.geojson",
        "out/geojson/sub/b.geojson",
        "out/overlays/a.png",
        "out/overlays/sub/b.png",
        "out/prediction.json",
        "out/ranking.csv",
    ]
    about = json.loads((folder / "prediction.json").read_text())
    assert about == {"class_names": list(NAMES), "checkpoint": "best.ckpt"}
    images, names = read_coco(folder / "detections_coco.json")
    assert names == NAMES
    assert [(image.file_name, image.boxes.tolist()) for image in images] == [
        ("a.png", [[5, 5, 20, 20], [30, 10, 50, 30]]),
        ("sub/b.tif", []),
    ]
    content = json.loads((folder / "detections_coco.json").read_text())
    assert content["info"]["checkpoint"] == "best.ckpt" and is_untouched_export(content)
    assert len((folder / "detections.csv").read_text().splitlines()) == 3
    assert (folder / "counts.csv").read_text().splitlines()[1:] == [
        "a.png,60,40,2,2,0",
        "sub/b.tif,60,40,0,0,0",
    ]
    assert len(json.loads((folder / "geojson" / "a.geojson").read_text())["features"]) == 2
    with Image.open(folder / "overlays" / "a.png") as overlay:
        assert np.asarray(overlay.convert("RGB")).max() > 0
    assert folder.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_overlays_can_be_left_out(tmp_path: Path) -> None:
    write_detection_outputs(tmp_path / "out", example(), NAMES, overlays=False)
    assert not (tmp_path / "out" / "overlays").exists()


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[DetectedImage]:
        yield example()[0]
        raise UserError("b.png: corrupt image")

    with pytest.raises(UserError, match="corrupt"):
        write_detection_outputs(tmp_path / "out", broken(), NAMES)
    with pytest.raises(UserError, match="label 1 has no name"):
        write_detection_outputs(tmp_path / "out", [result("a.png", [[0, 0, 1, 1]], label=1)], NAMES[:1])
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left") as error:
        write_detection_outputs(tmp_path / "out", example(), NAMES)
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_results_are_kept_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()  # empty: may be used
    write_detection_outputs(folder, example(), NAMES)
    consumed = []
    with pytest.raises(UserError, match="exists and is not empty") as error:
        write_detection_outputs(folder, (consumed.append(r) or r for r in example()), NAMES)
    assert error.value.exit_code == 2
    assert not consumed  # refused before any work
    write_detection_outputs(folder, example()[:1], NAMES, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (folder / "overlays" / "sub").exists()


def test_overwrite_spares_a_folder_with_other_things(tmp_path: Path) -> None:
    write_detection_outputs(tmp_path / "out", example(), NAMES)
    (tmp_path / "out" / "thesis.docx").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.docx"):
        write_detection_outputs(tmp_path / "out", example(), NAMES, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_detection_outputs(tmp_path / "file", example(), NAMES, overwrite=True)


def test_failed_swap_brings_the_old_results_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write_detection_outputs(folder, example(), NAMES)
    before = files(folder)
    replace, calls = os.replace, []

    def fail_on_new(source: Path, target: Path) -> None:
        calls.append(source)
        if Path(source).name == "new":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_new)
    with pytest.raises(UserError, match="Input/output error"):
        write_detection_outputs(folder, example()[:1], NAMES, overwrite=True)
    assert calls and files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_images_of_the_same_stem_get_their_own_files(tmp_path: Path) -> None:
    results = [result("a.png", []), result("a.jpg", []), result("b/a.png", [])]
    write_detection_outputs(tmp_path / "out", results, NAMES, overlays=False)
    assert files(tmp_path / "out" / "geojson") == ["a.geojson", "a_jpg.geojson", "b/a.geojson"]
    for bad in (
        [result("a.png", []), result("a.png", [])],
        [result("../a.png", [])],
        [result("/a.png", [])],
    ):
        with pytest.raises(UserError, match=r"a\.png"):
            write_detection_outputs(tmp_path / "bad", bad, NAMES, overlays=False)
