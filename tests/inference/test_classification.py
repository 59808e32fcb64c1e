"""Prediction of single cells sees what training saw, and writes its results whole or not at all."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.classification import CropDataset, CropRecord, CropSpec
from hemolens.errors import UserError
from hemolens.inference.classification import ClassifiedImage, write_classes
from hemolens.inference.load import ClassificationPredictor, load
from hemolens.io.images import read_image

NET = {
    "_target_": "hemolens.nets.classifier.TimmClassifier",
    "num_classes": 3,
    "in_channels": 3,
    "name": "test_resnet",
    "pretrained": "absent.pth",  # of training; not looked for when a checkpoint is loaded
}
MODEL: dict[str, Any] = {"_target_": "hemolens.tasks.classification.ClassificationTask", "class_weights": "balanced"}
SPEC = CropSpec(in_channels=3, image_px=32, crop_px=36, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    task = instantiate(MODEL, net=instantiate(NET | {"pretrained": False}), class_names=["a", "b", "c"])
    path = tmp_path / "best.ckpt"
    save(path, task.state_dict(), NET)
    return path


def save(path: Path, state: dict[str, torch.Tensor], net: dict[str, Any]) -> None:
    stored = {
        "version": "0",
        "task": "ClassificationTask",
        "config": {"net": net, "model": MODEL},
        "class_names": ["a", "b", "c"],
        "input": SPEC.to_dict(),
    }
    torch.save({"state_dict": state, KEY: stored}, path)


def test_predict_sees_what_training_saw(checkpoint: Path, cell_folder: Path) -> None:
    network = load(checkpoint, precision="32-true")
    assert isinstance(network, ClassificationPredictor) and network.class_names == ("a", "b", "c")
    path = sorted((cell_folder / "WBC").iterdir())[0]
    image = CropDataset([CropRecord("x", 0, path)], spec=SPEC)[0]["image"]
    with torch.no_grad():
        expected = network.task.net(image[None]).softmax(1)[0]
    for given in (path, read_image(path)):
        found = network.predict(given)
        np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5)
        assert found["probabilities"].sum() == pytest.approx(1) and int(found["label"]) == int(expected.argmax())
    grey = network.predict(np.full((50, 60), 90, np.uint8))
    np.testing.assert_allclose(
        grey["probabilities"], network.predict(np.full((50, 60, 3), 90, np.uint8))["probabilities"]
    )


def test_what_is_no_picture_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    network = load(checkpoint)
    with pytest.raises(UserError, match=r"shape \[4, 4, 4, 4\]"):
        network.predict(np.zeros((4, 4, 4, 4)))
    with pytest.raises(UserError, match="NaN"):
        network.predict(np.full((40, 40), np.nan))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.png"):
        network.predict(tmp_path / "bad.png")


def test_settings_of_another_task_and_foreign_code_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a ClassificationTask, which has no nms_iou"):
        load(checkpoint, nms_iou=0.5)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    save(tmp_path / "foreign.ckpt", state, NET | {"options": {"_target_": "os.system", "command": "true"}})
    with pytest.raises(UserError, match=r"os\.system.*not part of hemolens"):
        load(tmp_path / "foreign.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    del content[KEY]["input"]["crop_px"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="another version of hemolens"):
        load(tmp_path / "old.ckpt")


def results(count: int) -> list[ClassifiedImage]:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], size=count).astype(np.float32)
    return [
        ClassifiedImage(f"cell_{i}.png", rng.integers(0, 255, (20, 24, 3)).astype(np.uint8), share)
        for i, share in enumerate(shares)
    ]


def test_table_and_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    def spy(cells: list, class_names: list[str], *, title: str) -> Any:
        drawn.append([cell.name for cell in cells])
        return plot(cells, class_names, title=title)

    from hemolens.inference import classification

    plot = classification.plot_cells
    monkeypatch.setattr(classification, "plot_cells", spy)
    monkeypatch.setattr(classification, "SHEET_CELLS", 5)
    given = results(12)
    counts = write_classes(tmp_path / "out", iter(given), ["a", "b", "c"])
    with (tmp_path / "out" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "probability_a", "probability_b", "probability_c"]
    assert [row["file"] for row in rows] == [result.name for result in given]
    for row, result in zip(rows, given, strict=True):
        shares = [float(row[f"probability_{name}"]) for name in "abc"]
        assert shares == pytest.approx(result.probabilities.tolist(), abs=6e-5)
        assert row["class"] == "abc"[int(np.argmax(result.probabilities))]
    assert counts == {name: sum(row["class"] == name for row in rows) for name in "abc"}
    least_certain = sorted(given, key=lambda result: float(result.probabilities.max()))[:5]
    assert drawn == [[result.name for result in least_certain]]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 5 * 144


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Any:
        yield results(1)[0]
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="gone"):
        write_classes(tmp_path / "out", broken(), ["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []
