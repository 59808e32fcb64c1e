"""`hemolens collect --compare`: arms of a sweep from their run folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from hemolens.cli.collect import main

TYPES = ["disc", "sphere"]


def write_sweep(folder: Path, *, share: float | None = None) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.6, 0.9, size=(12, 2))
    for seed in (0, 1, 2):
        for arm, gain in (("plain", 0.0), ("da", 0.02)):
            run = folder / f"{arm}_{seed}_{share}"
            run.mkdir(parents=True)
            config = {"seed": seed, "arm_name": arm, "data": {"train_share": share or 1.0}}
            (run / "config_resolved.yaml").write_text(yaml.safe_dump(config))
            status = {"state": "finished", "job": "train", "command": f"hemolens train arm={arm} seed={seed}"}
            (run / "status.json").write_text(json.dumps(status))
            dice: list[list[float | None]] = (image + gain + rng.normal(0, 0.003, size=image.shape)).tolist()
            dice[3][1] = None  # no such cell in that image
            test = {"class_names": ["background", *TYPES], "dice_images": dice, "aji_images": dice}
            (run / "test.json").write_text(json.dumps(test))
            (run / "metrics.json").write_text(json.dumps({"test/dice": float(np.mean(image)) + gain}))


def test_arms_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path)
    unfinished = tmp_path / "da_1_None" / "status.json"
    unfinished.write_text(json.dumps({"state": "failed", "job": "train", "command": "hemolens train"}))
    assert main([str(tmp_path), "--compare", "arm_name=plain"]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "comparison.md").read_text() in told and "Left out, not finished: da_1_None" in told
    found = json.loads((tmp_path / "comparison.json").read_text())["all"]
    assert set(found) == {"Dice", "AJI", *(f"{score} {kind}" for score in ("Dice", "AJI") for kind in TYPES)}
    score = found["Dice"]["da"]
    assert score["seeds"] == 2 and score["low"] < 0.02 < score["high"]
    assert score["difference"] == pytest.approx(0.02, abs=0.003)
    assert found["Dice"]["plain"]["difference"] == 0 and found["Dice"]["plain"]["seeds"] == 3
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    assert (
        main([str(tmp_path), "--compare", "arm_name=plain", "--output", str(tmp_path)]) == 2
    )  # nothing is overwritten
    assert main([str(tmp_path), "--compare", "arm_name=plain", "--overwrite"]) == 0


def test_a_curve(tmp_path: Path) -> None:
    for share in (0.1, 1.0):
        write_sweep(tmp_path, share=share)
    assert main([str(tmp_path), "--compare", "arm_name=plain", "--by", "data.train_share"]) == 0
    assert set(json.loads((tmp_path / "comparison.json").read_text())) == {"0.1", "1.0"}
    assert "## data.train_share=0.1" in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--compare", "arm=plain"], "has no config key arm"),
        (["--compare", "arm_name=none"], "no arm 'none': choose from"),
        (["--compare", "arm_name=plain", "--by", "data.train_share"], None),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str | None
) -> None:
    write_sweep(tmp_path)
    if says is None:
        write_sweep(tmp_path / "again")
        says = "is a second run of arm_name="
    assert main([str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "comparison.md").exists()


def test_runs_of_other_tasks_and_half_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path)
    (tmp_path / "da_0_None" / "test.json").unlink()
    assert main([str(tmp_path), "--compare", "arm_name=plain"]) == 2
    assert "has no dice_images in test.json" in capsys.readouterr().err
    for options in (["--compare", "arm_name"], ["--by", "seed"]):
        with pytest.raises(SystemExit):
            main([str(tmp_path), *options])
