"""Diffusion GANs as commands: train both, make pairs, train a segmentation on them."""

import csv
import json
from pathlib import Path

import pytest
import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.main import main

from .conftest import call_command
from .test_segmentation_runs import FIELDS

SMALL = [
    *("net.image_px=32", "net.width=8", "net.multipliers=[1,2]", "net.attention_px=[16]", "net.latent_dim=4"),
    *("net.style_features=8", "model.discriminator.widths=[8,16]", "model.discriminator.time_features=8"),
]


def words(cache: Path, kind: str, *more: str) -> list[str]:
    return [
        *("data=sim_holograms", f"model=ddgan_{kind}", f"net=ddgan_{kind}_s", "optimizer=adam_ddgan", "callbacks=ema"),
        *FIELDS,
        *("data.split=[1,1,1]", "data.patch_px=64", "data.binning=2", "data.patches_per_image=4", "data.batch_size=4"),
        *("data.simulation_workers=1", f"data.cache_dir={cache}", f"task_name=gan_{kind}", *SMALL),
        *("trainer.max_epochs=2", "trainer.precision=32-true", "trainer.enable_progress_bar=false"),
        *("trainer.log_every_n_steps=1", "trainer.gradient_clip_val=null", *more),
    ]


@pytest.fixture(scope="module")
def trained_gans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs phase/ and mask/, and the cache; for reading only."""
    folder = tmp_path_factory.mktemp("gans")
    for kind in ("phase", "mask"):
        done = call_command("train", *words(folder / "cache", kind, f"hydra.run.dir={folder}/{kind}"), cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_runs_leave_what_they_promise(trained_gans: Path) -> None:
    metrics = json.loads((trained_gans / "phase" / "metrics.json").read_text())
    expected = {"test/over_floor", "test/histogram_rad", "test/spectrum_decades_floor", "val/over_floor"}
    assert expected | {"train/discriminator", "train/real_score", "parameters", "macs"} <= set(metrics)
    for name in ("samples", "floors"):
        assert (trained_gans / "phase" / "figures" / f"test_{name}.png").stat().st_size > 5000
    told = json.loads((trained_gans / "phase" / "test.json").read_text())
    assert told["over_floor"] == pytest.approx(metrics["test/over_floor"]) and told["samples"] == 8
    card = (trained_gans / "phase" / "checkpoints" / "MODEL_CARD.md").read_text()
    assert "generation of phase images" in card and "hemolens generate phase_ckpt=best.ckpt" in card
    masks = json.loads((trained_gans / "mask" / "test.json").read_text())
    assert 0 <= masks["dice"] <= 1 and masks["inference"]["images_10_s"] > 0
    content = torch.load(trained_gans / "mask" / "checkpoints" / "best.ckpt", weights_only=True)
    assert content[KEY]["input"]["pixel_um"] == pytest.approx(2 * 0.144088889)
    assert any(name.startswith("discriminator.") for name in content["state_dict"])


def test_a_mask_generator_segments(trained_gans: Path, tmp_path: Path) -> None:
    exported = ["simulate", "data=sim_holograms", *FIELDS, "data.n_donors=1", "workers=1", f"output={tmp_path}/made"]
    assert main(exported) == 0
    checkpoint = f"ckpt_path={trained_gans}/mask/checkpoints/best.ckpt"
    assert main(["predict", checkpoint, f"input={tmp_path}/made/phase", f"output={tmp_path}/found"]) == 0
    assert len(list((tmp_path / "found").rglob("*.ome.tif"))) == 4  # classes and instances of two images
    assert main(["export", checkpoint, f"output={tmp_path}/mask.onnx"]) == 2  # made in several steps of noise


def test_from_two_checkpoints_to_a_segmentation_trained_on_pairs(
    trained_gans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    common = [
        *(f"phase_ckpt={trained_gans}/phase/checkpoints/best.ckpt", f"output={pairs}"),
        f"mask_ckpt={trained_gans}/mask/checkpoints/best.ckpt",
    ]
    anything = [  # networks of eight steps make nothing plausible
        *("select.min_cells=0", "select.max_touching=1", "select.cell_area_um2=[0,1e6]", "select.background_rad=9"),
        *("select.cell_phase_rad=[-9,9]", "select.mask_phase_overlap=0", "select.count=3"),
    ]
    assert main(["generate", *common, "n=6", *anything, "augment.count=7"]) == 0
    said = capsys.readouterr().out
    assert "sample: 6 pairs made, 0 were there" in said and "data.synthetic_dir=" in said
    for name in ("accept.csv", "contact_sheet.png", "class_counts.png", "selection.json"):
        assert (pairs / "selected" / name).is_file()
    assert len(list((pairs / "augmented" / "phase").glob("*.ome.tif"))) == 7
    table = pairs / "selected" / "accept.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["accept"] for row in rows].count("1") == 3
    flipped = [row | {"accept": "10"[int(row["accept"])]} for row in rows]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in flipped)]
    table.write_text("\n".join(lines) + "\n")
    assert main(["generate", "stages=[select,augment]", f"output={pairs}", "augment.count=3", *anything]) == 0
    assert "3 copies made, 0 were there, 7 removed" in capsys.readouterr().out
    kept = {path.name.partition("_r")[0] for path in (pairs / "augmented" / "phase").glob("*.ome.tif")}
    assert kept == {row["name"] for row in flipped if row["accept"] == "1"}
    train = [
        *("data=sim_holograms", "model=segmentation", "net=unet_s", *FIELDS, "data.split=[1,1,1]"),
        *("data.patch_px=64", "data.patches_per_image=2", "data.batch_size=5", f"data.cache_dir={trained_gans}/cache"),
        *(f"data.synthetic_dir={pairs}/augmented", "trainer.max_epochs=1", "trainer.precision=32-true"),
        *("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", f"hydra.run.dir={tmp_path}/run"),
    ]
    assert main(["train", *train, "data.split_seed=7", f"hydra.run.dir={tmp_path}/leak"]) == 2
    assert "images of these data" in capsys.readouterr().err  # the GANs saw them
    assert main(["train", *train]) == 0
    assert "3 synthetic images" in (tmp_path / "run" / "run.log").read_text()


def test_what_is_wrong_is_said_in_a_line(
    trained_gans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = f"{trained_gans}/mask/checkpoints/best.ckpt"
    for given, says in (
        (["stages=[paint]"], "stages=['paint']: choose from [sample,select,augment]"),
        ([], "phase_ckpt must be given"),
        ([f"phase_ckpt={mask}"], "give a checkpoint of a run with model=ddgan_phase"),
        (["stages=[select]"], "holds no sampled pairs"),
        (["stages=[augment]"], "accept.csv"),
        (["select.count=0"], "select.count=0"),
    ):
        assert main(["generate", f"output={tmp_path}/none", *given]) == 2, given
        assert says in capsys.readouterr().err
    wrong = words(tmp_path / "cache", "mask", "data.binning=4", f"hydra.run.dir={tmp_path}/wrong")
    assert main(["train", *wrong]) == 2
    assert "training images of 16 px: make them equal" in capsys.readouterr().err
