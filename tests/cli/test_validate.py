"""Configs are checked before anything starts: what is shipped is clean, and each kind of slip gives its line."""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from hemolens.cli import train as train_verb
from hemolens.cli.app import register_resolvers
from hemolens.cli.compose import composed
from hemolens.cli.main import main
from hemolens.cli.places import config_dir
from hemolens.cli.schema import Accepted, accepted
from hemolens.cli.validate import find_all, find_common

CONFIGS = config_dir()
OF_VERBS = {
    "eval": ["ckpt_path=demo"],
    "predict": ["ckpt_path=demo", "input=x"],
    "simulate": ["output=x", "data=sim_holograms"],
    "reconstruct": ["input=x", "output=y"],
    "check": ["kind=bead", "input=x", "output=y"],
    "export": ["ckpt_path=demo"],
    "generate": [],
    "report": ["runs=x", "output=y"],
}


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert found, group
    return found


def config(*words: str, verb: str = "train") -> DictConfig:
    register_resolvers()
    return composed(str(CONFIGS), verb, words, with_hydra=True)


def test_every_experiment_is_clean() -> None:
    found = {}
    for name in names("experiment"):
        checkpoint = ["ckpt_path=demo"] if name == "finetune_corrected" else []
        found[name] = find_all(config(f"experiment={name}", *checkpoint), machine=False)
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("group", ["data", "net", "model", "optimizer", "scheduler", "callbacks", "logger", "trainer"])
def test_keys_and_types_of_every_choice_are_clean(group: str) -> None:
    found = {name: find_common(config(f"{group}={name}")) for name in names(group)}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("group", ["arm", "debug", "difficulty", "sweep"])
def test_recipes_are_clean_on_an_experiment(group: str) -> None:
    families = {  # what they optimise, or vary, is of one family
        "demo": ("inputs", "rare_classes", "nets_detection", "ablation_detection", "optuna_detection"),
        "gan_mask_simholo_quick": ("ablation_ddgan", "optuna_ddgan"),
        "ssl_resunet18_acevedo_quick": ("ablation_ssl", "optuna_ssl"),
    }
    of = {name: base for base, sweeps in families.items() for name in sweeps}
    bases = {name: of.get(name, "seg_resunet18_simholo_ablation_quick") for name in names(group)}
    found = {
        name: find_all(config(f"experiment={base}", f"{group}={name}"), machine=False) for name, base in bases.items()
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_verb_is_clean() -> None:
    found = {verb: find_all(config(*words, verb=verb)) for verb, words in OF_VERBS.items()}
    assert {verb: lines for verb, lines in found.items() if lines} == {}


SEGMENTATION = "experiment=seg_resunet18_simholo_quick"
GAN = "experiment=gan_mask_simholo_quick"
SLIPS = [
    (["+optimizer.lrr=0.1"], "'optimizer.lrr' (AdamW has none); did you mean optimizer.lr?"),
    (["++trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
    (["+sed=3"], "'sed'; did you mean seed?"),
    (["+paths.data_dirs=x"], "did you mean paths.data_dir"),
    (["+net.head.feat_channel=3"], "did you mean net.head.feat_channels"),
    (["+data.augment.rotate9=0.5"], "(DetectionAugmentation has none); did you mean data.augment.rotate90"),
    (["+data.blood.red_cells.tilt=3"], "did you mean data.blood.red_cells.tilt_deg"),
    ([SEGMENTATION, "+model.cells.min_area=3"], "did you mean model.cells.min_area_px"),
    (["data=tomograms", "data.class_names=[a]", "data.root=.", "+data.volume.voxels=3"], "data.volume.voxel_um"),
    (["logger=wandb", "+logger.wandb.entitty=me"], "did you mean logger.wandb.entity"),
    (["+callbacks.ema.decay=0.9"], "callbacks.ema is nothing to build: it has no _target_; choose callbacks=ema"),
    (["net._target_=hemolens.nets.fcos.FCSO"], "cannot be imported"),
    (["data=blood_cells"], "data.root must be given"),
    (["optimizer.lr=abc"], "optimizer.lr=abc: give a number"),
    (["trainer.max_epochs=ten"], "trainer.max_epochs=ten: give a whole number or null"),
    (["trainer.max_epochs=2.5"], "trainer.max_epochs=2.5: give a whole number or null"),
    (["data.batch_size=null"], "data.batch_size=null: give a whole number"),
    (["test=maybe"], "test=maybe: give true or false"),
    (["seed=x"], "seed=x: give a whole number"),
    (["trainer.precision=15"], "trainer.precision=15: give 64 or"),
    (["data.blood.wbc_fraction='0.1'"], "data.blood.wbc_fraction=0.1: give a number or null"),
    (["data.batch_size=0"], "data.batch_size=0: must be above 0"),
    (["data.num_workers=-1"], "data.num_workers=-1: must not be negative"),
    (["data.field_px=[64,-3]"], "must be above 0"),
    (["net.num_classes=7"], "the data has 4 classes (RBC, PLT, WBC, ARBC)"),
    (["net.in_channels=3"], "net.in_channels=3, but the data have 1"),
    (["model=segmentation"], "the data are fields with boxes, which a SegmentationTask cannot take"),
    ([SEGMENTATION, "net=fcos_r18_pafpn"], "the network is a detector, which a SegmentationTask cannot train"),
    ([GAN, "net=ddgan_phase_s"], "a generator of phase images, which a MaskDDGANTask cannot train"),
    ([GAN, "data.patch_px=128"], "net.image_px=64, but data.patch_px=128 / data.binning=4"),
    ([GAN, "trainer.gradient_clip_val=3"], "trainer.gradient_clip_val=3: a MaskDDGANTask steps its own optimizers"),
    (["experiment=gan_phase_simholo_quick", "model.condition=mask"], "choose net=ddgan_phase_of_mask_s"),
    (["monitor.metric=val/dice"], "a DetectionTask does not log val/dice; it logs val/loss, val/map"),
    (["optimized_metric=val/ap_RBCs"], "does not log val/ap_RBCs"),
    (["optimized_metric=test/map", "test=false"], "which test=false leaves out"),
    (["trainer.max_epochs=-1"], "would never end"),
    (["finetune=true"], "finetune=true needs the checkpoint to start from"),
    (["ckpt_path=nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
    (["data=bccd", "data.root=${oc.env:SOME_SET,nowhere}"], "data.root=nowhere: no such folder; set data.root, or"),
    (["trainer.accelerator=gpuu"], "trainer.accelerator=gpuu: no such device; did you mean gpu"),
]


@pytest.mark.parametrize(("words", "line"), SLIPS, ids=[" ".join(words) for words, _ in SLIPS])
def test_a_slip_has_its_line(words: list[str], line: str) -> None:
    found = find_all(config(*words))
    assert len(found) == 1, found
    assert line in found[0]


@pytest.mark.parametrize(
    "words",
    [
        ["+trainer.detect_anomaly=true"],
        ["optimizer=sgd", "+optimizer.nesterov=true"],
        ["logger=wandb_offline", "+logger.wandb.entity=me"],
        ["+data.augment.rotate90=0.5"],
        ["+mine=3", "trainer.max_epochs=${mine}"],  # a key that another reads
        ["+callbacks.mine._target_=lightning.pytorch.callbacks.Timer"],
        ["optimized_metric=val/ap_PLT"],
        ["trainer.max_epochs=-1", "+trainer.max_steps=10"],
        ["trainer.precision=auto", "trainer.devices=auto"],
    ],
)
def test_what_is_right_is_let_through(words: list[str]) -> None:
    assert find_all(config(*words)) == []


def test_a_gpu_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found = find_all(config("trainer=gpu"))
    assert len(found) == 1 and "add trainer=cpu" in found[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_all(config("trainer=gpu")) == []


def test_what_is_swept_is_left_to_the_jobs() -> None:
    swept = ["net=fcos_r18_pafpn,fcos_r50_fpn", "data.root=a,b"]
    register_resolvers()
    cfg = config("+trainer.max_epoch=3")
    cfg.hydra.overrides.task += swept
    assert [line for line in find_common(cfg) if "max_epoch" in line]
    cfg.hydra.overrides.task.append("experiment=demo,finetune_corrected")
    assert find_common(cfg) == []  # an experiment may replace anything


Command = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``train(*words)`` in an empty folder with a job that does nothing: exit code and the lines of stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hemolens"])

    def run(*words: str) -> tuple[int, list[str]]:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), mock.patch.object(train_verb, "job", lambda cfg: None):
            code = main(["train", *words])
        GlobalHydra.instance().clear()
        return code, errors.getvalue().splitlines()

    return run


def test_all_findings_at_once_and_no_folder(train: Command, tmp_path: Path) -> None:
    code, lines = train("+optimizer.lrr=1", "trainer.max_epochs=ten", "+sed=1")
    assert code == 2
    assert len(lines) == 3 and all(line.startswith("hemolens: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_experiment_is_checked(train: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - demo\n  - _self_\ntrainer:\n  max_epoch: 3\n"
    (folder / "own.yaml").write_text(text)
    code, lines = train("--config-dir", "mine", "experiment=own")
    assert (code, len(lines)) == (2, 1)
    assert "trainer.max_epochs" in lines[0]
    (folder / "own.yaml").write_text(text.replace("max_epoch:", "max_epochs:"))
    assert train("--config-dir", "mine", "experiment=own")[0] == 0


def test_a_multirun_is_refused_before_its_first_job(train: Command, tmp_path: Path) -> None:
    code, lines = train("-m", "seed=0,1", "+trainer.max_epoch=3")
    assert (code, len(lines)) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_a_multirun_is_checked_whole(train: Command) -> None:
    code, lines = train("-m", "net.num_classes=4,7", "hydra.sweep.dir=sweep")
    assert code == 1
    assert any("net.num_classes=7" in line for line in lines)


def test_a_function_without_a_signature_takes_anything() -> None:
    assert accepted(torch.tensor) == Accepted({}, frozenset(), open=True)
