"""Segmentation as commands: train on simulated holograms, test again, predict phase images and holograms."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hemolens as package
from hemolens.cli.main import main
from hemolens.data.phase_images import PHASE, map_phase_image
from hemolens.io.labels import read_labels
from hemolens.io.phase import read_phase

from .conftest import Run, call_command

TYPES = ["discocyte", "spherocyte", "echinocyte", "stomatocyte"]
FIELDS = [
    "data.field_px=[160,160]",
    "data.margin_px=16",
    "data.fields_per_sample=2",
    "data.placement.density_per_mm2=6000",
    "data.defocus_um=[-1,1]",
    "data.holography.speckle=0.03",
]


def words(cache: Path, *more: str) -> list[str]:
    return [
        "data=sim_holograms",
        "model=segmentation",
        "net=resunet18",
        "net.decoder_channels=[16,16,8,8,8]",
        *FIELDS,
        "data.split=[1,1,1]",
        "data.patch_px=64",
        "data.patches_per_image=2",
        "data.batch_size=2",
        "data.simulation_workers=1",
        f"data.cache_dir={cache}",
        "task_name=segmentation",
        "trainer.max_epochs=2",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        *more,
    ]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished training, its cache beside it; for reading only."""
    folder = tmp_path_factory.mktemp("segmented")
    done = call_command("train", *words(folder / "cache", f"hydra.run.dir={folder}/run"), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: 2 images" in done.stderr + done.stdout
    assert "right type" in done.stdout and "Dice and AJI" in done.stdout
    return folder / "run"


def test_a_run_leaves_what_it_promises(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    expected = {f"{part}/{name}" for part in ("val", "test") for name in ("dice", "aji")}
    expected |= {f"test/dice_skip_{name}" for name in TYPES} | {f"val/dice_{name}" for name in TYPES}
    expected |= {"train/loss", "val/loss", "test/mixed_type_rate", "test/type_accuracy_touching", "parameters", "macs"}
    assert expected <= set(metrics)
    for name in ("segmentations", "type_scores", "types"):
        assert (run_dir / "figures" / f"test_{name}.png").stat().st_size > 5000
    content = json.loads((run_dir / "test.json").read_text())
    assert content["class_names"] == ["background", *TYPES]
    assert content["network"] == "ResUnet on resnet18" and content["backbone"] == "resnet18"
    assert content["parameters"] == metrics["parameters"] and content["data"] == "SimulatedHologramDataModule"
    cells = content["class_counts"]["test"]
    assert [sum(row) for row in content["types"]] == [cells[name] for name in TYPES]
    for key, value in (("dice", "test/dice"), ("aji", "test/aji"), ("mixed_type_rate", "test/mixed_type_rate")):
        assert content[key] == pytest.approx(metrics[value])
    markdown = (run_dir / "test.md").read_text()
    assert markdown.startswith(content["tested"]) and "| type | cells | Dice |" in markdown
    card = (run_dir / "checkpoints" / "MODEL_CARD.md").read_text()
    assert "segmentation of red cells by type" in card and "simulated cells" in card and "pixel_um" in card


def test_maps_of_the_test_are_kept_for_reports(run_dir: Path) -> None:
    network = package.load(run_dir / "checkpoints" / "best.ckpt", precision="32-true")
    with np.load(run_dir / "figures" / "test_maps.npz") as maps:
        kept = list(maps["names"])
        assert len(kept) == 2
        for number, name in enumerate(kept):
            planes = map_phase_image(next((run_dir.parent / "cache").rglob(f"{name}.npy")))
            phase = planes[PHASE] * np.float32(0.001)
            assert np.array_equal(maps[f"truth_{number}"], planes[1])
            shown = (maps[f"phase_{number}"].astype(float) + 1) * 3 - 1
            assert np.abs(shown - np.clip(phase, -1, 5)).max() < 0.005  # half precision
            # what the test saw is what a predictor says
            found = network.predict(phase)  # type: ignore[call-overload]
            assert (found["classes"] == maps[f"prediction_{number}"]).mean() > 0.999


def test_checkpoints_say_what_the_network_takes(run_dir: Path) -> None:
    content = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["hemolens"]
    assert content["task"] == "SegmentationTask" and content["class_names"] == ["background", *TYPES]
    assert content["input"] == {
        "phase_limits_rad": [-1.0, 5.0],
        "pixel_um": pytest.approx(0.144088889),
        "wavelength_um": 0.666,
    }
    assert content["config"]["net"]["in_channels"] == 1 and content["config"]["net"]["num_classes"] == 5


def test_eval_repeats_the_test_of_training(hemolens: Run, run_dir: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    done = hemolens("eval", f"ckpt_path={checkpoint}", f"hydra.run.dir={tmp_path}/eval")
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "eval" / "test.json").read_text())
    before = json.loads((run_dir / "test.json").read_text())
    for name in ("types", "dice_skip", "aji_one", "spurious_types", "tested", "dice"):
        assert again[name] == before[name]
    assert again["class_counts"].keys() == {"test"}
    assert (tmp_path / "eval" / "figures" / "test_maps.npz").is_file()


def test_files_go_the_whole_way(hemolens: Run, run_dir: Path, tmp_path: Path) -> None:
    """Simulated into files, segmented from the true phase and from the holograms, and trained on."""
    made = hemolens("simulate", "output=set", "data=sim_holograms", "data.n_donors=1", *FIELDS, "workers=1")
    assert made.returncode == 0, made.stdout + made.stderr
    base = ["predict", f"ckpt_path={run_dir}/checkpoints/best.ckpt", "precision=32-true", "device=cpu"]
    results = {}
    for name, words_ in (("phases", ["input=set/phase"]), ("holograms", ["input=set", "overlays=false"])):
        done = hemolens(*base, *words_, f"output={name}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert " in 2 images" in done.stdout
        with (tmp_path / name / "counts.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["file", *TYPES, "all"] and len(rows) == 2
        assert all(int(row["all"]) == sum(int(row[kind]) for kind in TYPES) for row in rows)
        with (tmp_path / name / "cells.csv").open() as file:
            assert len(list(csv.DictReader(file))) == sum(int(row["all"]) for row in rows)
        results[name] = sorted((tmp_path / name / "classes").rglob("*.ome.tif"))
        assert [path.name for path in results[name]] == ["donor1_f000.ome.tif", "donor1_f001.ome.tif"]
    assert len(list((tmp_path / "phases" / "overlays").iterdir())) == 2
    assert not (tmp_path / "phases" / "phase").exists() and not (tmp_path / "holograms" / "overlays").exists()
    for one, other in zip(*results.values(), strict=True):
        assert (read_labels(one) == read_labels(other)).mean() > 0.8  # of a network that hardly learnt
        found = read_phase(tmp_path / "holograms" / "phase" / other.relative_to(tmp_path / "holograms" / "classes"))
        truth = read_phase(tmp_path / "set" / "phase" / one.name)
        assert np.median(np.abs(found.phase_rad - truth.phase_rad)) < 0.06  # out of focus by up to 1 um
    lab = ["data=holograms", "data.root=set", "data.split=[1,1,0]", "test=false", "trainer.max_epochs=1"]
    kept = [word for word in words(tmp_path / "cache") if not word.startswith("data") and "max_epochs" not in word]
    small = ["data.patch_px=64", "data.patches_per_image=1", "data.batch_size=1", f"data.cache_dir={tmp_path}/cache"]
    trained = hemolens("train", *kept, *lab, *small, "hydra.run.dir=lab")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (tmp_path / "lab" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data=sim_holograms"], "add model=segmentation net=resunet18"),
        (["data=bccd", "model=segmentation", "net=resunet18"], "add model=detection"),
        (
            ["data=sim_holograms", "model=segmentation", "net=resunet18", "net.num_classes=4"],
            "leave net.num_classes out",
        ),
        (["data=holograms", "model=segmentation", "net=resunet18"], "data.root must be given"),
        (
            ["data=holograms", "model=segmentation", "net=resunet18", "data.root=nowhere"],
            "data.root=nowhere: no such folder",
        ),
        (
            ["data=sim_holograms", "model=segmentation", "net=resunet18", "data.split_by=bag"],
            "choose from image, sample",
        ),
        (["data=sim_holograms", "model=segmentation", "net=resunet18", "data.augment.blur=1"], "blur"),
        (["data=sim_holograms", "model=segmentation", "net=resunet18", "model.class_weights=[1,2]"], "give 5 numbers"),
        (["data=sim_holograms", "model=segmentation", "net=resunet18", "net.encoder=resnet1800"], "net.encoder"),
    ],
)
def test_slips_of_train(
    given: list[str],
    message: str,
    tmp_path: Path,
    voc_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEMOLENS_BCCD", str(voc_folder))
    assert main(["train", *given, "hydra.run.dir=run", "trainer.enable_progress_bar=false"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hemolens: ")]
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["pipeline=hematology"], "is a segmentation; leave pipeline out"),
        (["nms_iou=0.5"], "has no nms_iou"),
        (["segmentation.mode=tiles"], "choose from auto, whole, windows, paper"),
        (["segmentation.mode=windows", "segmentation.overlap_px=2000"], "overlap_px=2000"),
        (["segmentation.batch_size=0"], "batch_size=0"),
        (["segmentation.alpha_um3_pg=0"], "alpha_um3_pg=0"),
        (["input=nowhere"], "input=nowhere"),
        (["hologram.pixel_um=6.5"], "a pixel of 6.5 um"),
    ],
)
def test_slips_of_predict(
    given: list[str],
    message: str,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "phase.npy", np.zeros((64, 64), np.float32))
    base = [f"ckpt_path={run_dir}/checkpoints/best.ckpt", "input=phase.npy", "output=x", "precision=32-true"]
    assert main(["predict", *base, *given]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hemolens: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_types_are_calibrated_and_a_series_is_assessed(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    copy = tmp_path / "run" / "checkpoints" / "best.ckpt"
    copy.parent.mkdir(parents=True)
    shutil.copy(checkpoint, copy)
    tested = call_command(
        "eval",
        f"ckpt_path={copy}",
        "calibrate=true",
        f"hydra.run.dir={tmp_path}/eval",
        "trainer.enable_progress_bar=false",
        cwd=tmp_path,
    )
    if tested.returncode:  # so little trained, it may find fewer cells than a temperature wants
        assert "to fit a temperature on" in tested.stderr
        (copy.parent / "calibration.json").write_text('{"temperature": 2.0}')
    else:
        assert "calibration error" in tested.stdout
        assert (tmp_path / "eval" / "figures" / "reliability.png").stat().st_size > 5000
    kept = json.loads((copy.parent / "calibration.json").read_text())
    series = ["data=sim_storage", *FIELDS, "data.blood.storage_day=[8,57]", "workers=1", "output=stored"]
    assert call_command("simulate", *series, cwd=tmp_path).returncode == 0
    predict = [f"ckpt_path={copy}", "input=stored", "pipeline=storage"]
    done = call_command("predict", *predict, "output=assessed", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "assessed" / "storage.json").read_text())
    assert (summary["images"], summary["bags"], summary["storage_days"]) == (4, ["donor11"], [8.0, 57.0])
    assert summary["temperature"] == kept["temperature"] and sum(summary["true_cells"].values()) > 10
    assert f"{summary['flagged_images']} of 4 images flagged" in done.stdout and "subset" not in done.stderr
    pages = tmp_path / "assessed" / "reports" / "donor11"
    assert "storage day 57" in (pages / "quality.html").read_text() and (pages / "quality.pdf").stat().st_size > 10_000
    for name in ("trend.png", "errors.png", "gallery.png", "confusion.png", "days.csv", "image_quality.csv"):
        assert (tmp_path / "assessed" / name).is_file(), name
    assert "pipeline" in json.loads((tmp_path / "assessed" / "prediction.json").read_text())
    for more, words in (
        ("storage.least_probability=2", "least_probability=2"),
        ("storage.calibration=stored/manifest.csv", "is no calibration"),
        ("hologram.manifest=none", "wants a manifest"),
        ("quality.dry_mass_pg=[60,15]", "quality.dry_mass_pg"),
    ):
        wrong = call_command("predict", *predict, "output=other", more, cwd=tmp_path)
        assert wrong.returncode == 2 and words in wrong.stderr, wrong.stderr
    assert not (tmp_path / "other").exists()
