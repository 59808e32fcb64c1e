"""The comparison of pretrained features with untrained ones: which pictures, which rows, what is kept."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.classification import CropSpec
from hemolens.errors import UserError

from ..conftest import REPOSITORY, load_module

NAMES = ["dark", "light"]
SPEC = CropSpec(image_px=32, crop_px=20, mean=(0.5,) * 3, std=(0.25,) * 3)
NETS: dict[str, dict[str, Any]] = {
    "MoCoReconstructionTask": {
        "_target_": "hemolens.nets.moco.MoCo",
        "num_classes": 5,
        "in_channels": 3,
        "encoder": "test_resnet",
        "decoder_channels": [8, 8, 8, 8, 8],
        "projection_features": 8,
        "hidden_features": 8,
        "queue_size": 8,
        "pretrained": None,
    },
    "ClassificationTask": {
        "_target_": "hemolens.nets.classifier.TimmClassifier",
        "num_classes": 2,
        "in_channels": 3,
        "name": "test_resnet",
        "pretrained": False,
    },
}
MODELS = {"MoCoReconstructionTask": "hemolens.tasks.moco", "ClassificationTask": "hemolens.tasks.classification"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_module(REPOSITORY / "scripts" / "measure_ssl.py")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of 24x26 of each of two classes, which differ in brightness, and 3 of a third."""
    root, rng = tmp_path_factory.mktemp("set") / "cells", np.random.default_rng(0)
    for name, count, mean in (("dark", 20, 80), ("light", 20, 160), ("rare", 3, 100)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = (mean + rng.normal(0, 20) + rng.normal(0, 20, (24, 26, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def chula(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images of 64x64 with four cells, one of each type, of its own brightness; one point is near the border."""
    root, rng = tmp_path_factory.mktemp("set") / "chula", np.random.default_rng(0)
    for name in ("Dataset", "Label"):
        (root / name).mkdir(parents=True)
    for number in range(8):
        pixels, lines = rng.normal(200, 5, (64, 64, 3)), ["2 2 0"]
        for place, kind in enumerate(rng.permutation([0, 3, 5, 8]).tolist()):
            y, x = 16 + 32 * (place // 2), 16 + 32 * (place % 2)
            pixels[y - 9 : y + 9, x - 9 : x + 9] -= 15 * (1 + kind)
            lines.append(f"{x} {y} {kind}")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "Dataset" / f"{number}.png")
        (root / "Label" / f"{number}.txt").write_text("\n".join(lines))
    return root


def checkpoint(path: Path, root: Path, *, kind: str = "MoCoReconstructionTask", seed: int = 0, **data: Any) -> Path:
    """As a run leaves one behind."""
    net, model = NETS[kind], {"_target_": f"{MODELS[kind]}.{kind}"}
    split = {"class_names": None, "min_images": 5, "split": [0.6, 0.2, 0.2], "split_seed": 3} | data
    split |= {"_target_": "hemolens.data.modules.unlabelled.BloodCellDataModule", "root": str(Path("elsewhere") / root)}
    torch.manual_seed(100 + seed)
    task = instantiate(model, net=instantiate(net), class_names=NAMES, optimizer=None)
    stored = {
        "config": {"net": net, "model": model, "data": split, "task_name": "ssl_tiny", "seed": seed},
        "class_names": NAMES,
        "task": kind,
        "input": SPEC.to_dict(),
    }
    torch.save({KEY: stored, "state_dict": task.state_dict(), "epoch": 4}, path)
    return path


def told(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    kept = tmp_path / "kept.json"
    kept.unlink(missing_ok=True)
    monkeypatch.setattr(sys, "argv", ["measure_ssl.py", *map(str, words), "--json", str(kept)])
    script.main()
    assert str(tmp_path) not in kept.read_text()  # no path of this machine
    return dict(json.loads(kept.read_text()))


def test_neighbours_without_checkpoints(
    script: ModuleType, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HEMOLENS_ACEVEDO", str(pictures))
    words = ("knn", "--encoder", "test_resnet", "--image-px", "32", "--min-images", "10", "--seeds", "4", "5")
    found = told(script, monkeypatch, tmp_path, *words)
    assert found["command"].endswith("knn --seeds 4 5 --encoder test_resnet --image-px 32 --min-images 10")
    assert found["class_counts"] == {"training": {"dark": 14, "light": 14}, "test": {"dark": 6, "light": 6}}
    assert found["seeds"]["random_initialisation"] == [4, 5] and found["task_name"] is None
    scores = found["balanced_accuracy"]
    assert len(scores["rows"]) == 6 and {pair["than"] for pair in scores["differences"]} == {scores["best_trivial"]}
    assert [pair["of"] for pair in scores["differences"]] == list(scores["rows"])[:2]
    assert scores["rows"]["channel means and SDs, standardised"]["mean"] > 0.9
    assert len(scores["rows"]["random initialisation, as they are"]["runs"]) == 2
    for row in scores["rows"].values():
        assert row["mean"] == pytest.approx(np.mean(row["runs"]))
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]
    assert "8 x 8 px, standardised" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["measure_ssl.py", *words, "--json", str(tmp_path / "kept.json")])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "remove it first" in capsys.readouterr().err


def test_neighbours_of_pretrained_networks(
    script: ModuleType, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths = [checkpoint(tmp_path / f"s{seed}.ckpt", pictures, seed=seed) for seed in (0, 1)]
    words = ("knn", "--root", pictures, "--min-images", "10", "--seeds", "0", "--ssl")
    found = told(script, monkeypatch, tmp_path, *words, *paths)
    assert "--ssl s0.ckpt s1.ckpt --seeds 0" in found["command"]
    assert (found["task_name"], found["epochs"], found["seeds"]["pretraining"]) == ("ssl_tiny", [4, 4], [0, 1])
    assert found["input"] == SPEC.to_dict() and found["began_with_pretrained_weights"] is False
    assert found["split"]["of"] == "the checkpoints"
    assert found["split"]["test_pictures_seen_without_labels"] == [0, 0]
    assert found["split"]["pictures"] == {"training": 24, "test": 16}
    scores = found["balanced_accuracy"]
    assert len(scores["rows"]["pretrained without labels, as they are"]["runs"]) == 2
    assert scores["best_trivial"].startswith(("channel", "8 x 8"))
    assert [pair["than"] for pair in scores["differences"]][2:] == [scores["best_trivial"]] * 4
    printed = capsys.readouterr().out
    for pair in scores["differences"]:
        gain = scores["rows"][pair["of"]]["mean"] - scores["rows"][pair["than"]]["mean"]
        assert pair["difference"] == pytest.approx(gain)
        low, high = pair["interval"]
        assert pair["verdict"] == ("above" if low > 0 else "below" if high < 0 else "not told apart from")
        assert f"{pair['of']}: {pair['verdict']} {pair['than']}, {gain:+.3f}" in printed

    # Another split each: the fixed one, and how many test pictures were seen is told.
    paths[1] = checkpoint(tmp_path / "s1.ckpt", pictures, seed=1, split=[1.0, 0.0, 0.0])
    found = told(script, monkeypatch, tmp_path, *words, *paths)
    assert found["split"]["of"].startswith("70 %") and found["split"]["pictures"] == {"training": 28, "test": 12}
    first, second = found["split"]["test_pictures_seen_without_labels"]
    assert 0 < first < second == 12

    paths = [checkpoint(tmp_path / "other.ckpt", pictures.with_name("other"))]
    found = told(script, monkeypatch, tmp_path, *words, *paths)
    assert found["split"]["test_pictures_seen_without_labels"] == [None]
    assert found["split"]["of"].startswith("70 %")


def test_probe_of_four_types(
    script: ModuleType, chula: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HEMOLENS_CHULA", str(chula))
    ssl = checkpoint(tmp_path / "ssl.ckpt", chula)
    supervised = checkpoint(tmp_path / "best.ckpt", chula, kind="ClassificationTask", seed=7)
    words = ("chula", "--ssl", ssl, "--supervised", supervised, "--side-px", "24", "--seeds", "0")
    found = told(script, monkeypatch, tmp_path, *words)
    assert found["command"].endswith("chula --ssl ssl.ckpt --seeds 0 --side-px 24 --supervised best.ckpt")
    assert found["supervised"] == {"task_name": "ssl_tiny", "seed": 7}
    assert found["split"]["images"] == {"training": 6, "test": 2}
    each = dict.fromkeys(("normal", "spherocyte", "stomatocyte", "burr_cell"), 1)
    assert found["left_out_at_the_edge"] == {name: 8 * (name == "normal") for name in each}
    assert found["class_counts"] == {
        "training": {name: 6 for name in each},
        "test": {name: 2 for name in each},
    }
    rows = found["macro_f1"]["rows"]
    assert list(rows) == [
        *("pretrained without labels", "random initialisation"),
        *("channel means and SDs", "8 x 8 px", "trained with labels"),
    ]
    assert rows["channel means and SDs"]["mean"] > 0.8
    assert set(found["recall"]["8 x 8 px"]) == set(each) and found["strengths"].keys() == rows.keys()
    ssl_row, random_row, supervised_row, best = *list(rows)[:2], list(rows)[4], found["macro_f1"]["best_trivial"]
    assert [(pair["of"], pair["than"]) for pair in found["macro_f1"]["differences"]] == [
        *((ssl_row, other) for other in (random_row, supervised_row)),
        *((other, best) for other in (ssl_row, random_row, supervised_row)),
    ]
    assert "macro-F1 of a linear probe, 24 training" in capsys.readouterr().out.replace("\n", " ")


def test_predictions_use_training_pictures_alone(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NEIGHBOURS", 9)
    rng = np.random.default_rng(0)
    labels, features = rng.integers(2, size=40), rng.normal(3, [1, 5, 50], (40, 3)).astype(np.float32)
    features[:, 1] += labels * 9
    train, test = list(range(0, 40, 2)), list(range(1, 40, 2))
    scaler = StandardScaler().fit(features[train])
    for way, values in (("as they are", features), ("standardised", scaler.transform(features))):
        model = KNeighborsClassifier(9, metric="cosine").fit(values[train], labels[train])
        said = script.neighbours_say(features, labels, train, test, way)
        assert np.array_equal(said, model.predict(values[test]))


def test_networks(script: ModuleType, pictures: Path, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    path = checkpoint(tmp_path / "a.ckpt", pictures)
    pretrained = script.load_pretrained([path], CropSpec())
    assert pretrained.spec == SPEC
    torch.manual_seed(100)
    torch.testing.assert_close(
        pretrained.nets[0].features(images), instantiate(NETS["MoCoReconstructionTask"]).eval().features(images)
    )
    started = checkpoint(tmp_path / "d.ckpt", pictures)
    content = torch.load(started)
    content[KEY]["config"]["net"] |= {"pretrained": "weights.pth"}
    torch.save(content, started)
    again = script.load_pretrained([started], CropSpec())
    assert torch.equal(
        again.random_net(0, "").features(images), pretrained.random_net(0, "").features(images)
    )  # without the weights that training began with
    for made in (pretrained, script.load_pretrained([], CropSpec())):
        first, same, other = (made.random_net(seed, "test_resnet").features(images) for seed in (0, 0, 1))
        assert torch.equal(first, same) and not torch.equal(first, other) and first.shape == (3, 96)
    classifier = checkpoint(tmp_path / "b.ckpt", pictures, kind="ClassificationTask")
    content, spec, net = script.load_supervised(classifier)
    assert spec == SPEC and content["epoch"] == 4
    torch.testing.assert_close(net.get_classifier()(script.before_classifier(net, images)), net(images))
    with pytest.raises(UserError, match="--ssl wants checkpoints of a pretraining"):
        script.load_pretrained([classifier], CropSpec())
    with pytest.raises(UserError, match="--supervised wants"):
        script.load_supervised(path)
    content = torch.load(path)
    content[KEY]["input"]["image_px"] = 64
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(UserError, match="another network or input"):
        script.load_pretrained([path, tmp_path / "c.ckpt"], CropSpec())


def test_slips_are_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_ssl.py", "knn", "--root", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "is not a folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["measure_ssl.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    assert "What pretraining without labels is worth" in capsys.readouterr().out
