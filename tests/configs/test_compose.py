"""Every config file composes, resolves and instantiates, its partials are called, and experiments run one step."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from hemolens.cli.app import compose_config, config_dir, register_resolvers
from hemolens.cli.compose import composed as compose_beside
from hemolens.cli.optuna_search import read_space
from hemolens.cli.run_facts import name_tags
from hemolens.cli.run_guard import resolved
from hemolens.errors import UserError

CONFIGS = config_dir()
# Of every network as its file stands; those of paper B (3 channels, 5 classes) are its Table 3's.
PARAMETERS = {
    "cls_resnet18": 11_171_779,
    "fcos_r18_pafpn": 21_462_862,
    "fcos_r50_fpn": 32_122_190,
    "fcos_swin_t_fpn": 35_561_224,
    "resunet": 73_688_197,
    "unet": 54_424_581,
    "deeplabv3plus": 39_757_733,
    "fcn": 18_643_845,
    "pspnet": 65_700_293,
    "gan_watershed": 13_043_269,
    "resunet18": 14_328_149,
    "unet_s": 4_119_173,
    "unet_mobilenet": 990_749,
    "deeplabv3plus_s": 13_367_333,
    "fcn_s": 12_932_645,
    "pspnet_s": 12_768_709,
    "gan_watershed_s": 818_581,
    "ddgan_mask": 142_318_341,
    "ddgan_phase": 142_302_209,
    "ddgan_phase_of_mask": 142_313_729,
    "ddgan_mask_s": 4_484_613,
    "ddgan_phase_s": 1_382_625,
    "ddgan_phase_of_mask_s": 4_483_457,
    "moco_resnet50": 106_113_347,  # with the momentum networks
    "moco_resnet18": 26_162_035,
}


ABLATION = "seg_resunet18_simholo_ablation_quick"


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "default" or group != "local")
    assert found, f"no config in {group}"
    return found


def composed(*overrides: str, config_name: str = "train", return_hydra_config: bool = False) -> DictConfig:
    if not return_hydra_config:
        return compose_config(config_name, overrides)
    register_resolvers()
    return compose_beside(str(CONFIGS), config_name, overrides, with_hydra=True)


def with_tags(*overrides: str) -> DictConfig:
    """As a job sees it: its tags are what Hydra was told to choose."""
    cfg = composed(*overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    name_tags(cfg)
    return cfg


def call_partials(cfg: DictConfig) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = instantiate(cfg.optimizer)([{"params": list(net.parameters())}])
    scheduler = instantiate(cfg.scheduler)(optimizer, 100)
    optimizer.step()
    scheduler.step()
    assert math.isfinite(scheduler.get_last_lr()[0])


@pytest.mark.parametrize("name", names("experiment"))
def test_experiment_composes_resolves_and_instantiates(name: str, tmp_path: Path) -> None:
    given = ["ckpt_path=demo"] if name == "finetune_corrected" else []
    cfg = with_tags(f"experiment={name}", f"paths.run_dir={tmp_path}", *given)
    resolved(cfg)
    token = name.split("_")
    assert name in ("demo", "finetune_corrected") or (
        token[0] in {"det", "gan", "ssl", "seg", "cls"} and cfg.task_name == name
    )
    call_partials(cfg)
    assert instantiate(cfg.net).num_classes == len(cfg.data.class_names)
    for callback in cfg.callbacks.values():
        instantiate(callback)
    family, net, data, *more = cfg.tags
    known = {"det": "detection", "gan": "diffusion", "ssl": "ssl", "seg": "segmentation", "cls": "classification"}
    known["finetune"] = "segmentation"  # the family of the checkpoint, here the demo's
    assert family == known.get(token[0], "detection") and cfg.sweep_name
    assert net in names("net") and data in names("data")
    # the rest is said of it in its name: quick, tiny, a data set that a folder holds
    told = {"demo", "finetune", "acevedo", "tiny", "quick", "uneven", "ablation"}
    assert set(more) == told & (set(token) | ({"finetune"} if token[0] == "finetune" else set())), more


def test_tags_tell_what_was_chosen_not_what_the_recipe_is_called() -> None:
    recipe = "experiment=seg_resunet18_simholo_quick"
    assert list(with_tags(recipe).tags) == ["segmentation", "resunet18", "sim_holograms", "quick"]
    changed = with_tags(recipe, "net=unet_s", "data=sim_holograms_tiny", "tags=[mine,unet_s]")
    assert list(changed.tags) == ["segmentation", "unet_s", "sim_holograms_tiny", "mine"]


@pytest.mark.parametrize("name", names("debug"))
def test_debug_wins_over_the_experiment(name: str) -> None:
    cfg = composed("experiment=det_fcos_r18_pafpn_bccd", f"debug={name}")
    assert list(cfg.tags) == ["debug"]


# What a sweep is made for, where the default experiment has not all its keys.
SWEPT = {
    "label_efficiency": ABLATION,
    "detection": "det_fcos_r18_pafpn_tomogram_quick",
    "segmentation": "seg_resunet18_simholo_quick",
    "ddgan": "gan_phase_simholo_quick",
    "ssl": "ssl_resunet18_acevedo_quick",
}


def swept(name: str) -> list[str]:
    """The words of a sweep, with an experiment that it is for."""
    experiment = SWEPT.get(name) or SWEPT.get(name.partition("_")[2])
    return [f"sweep={name}", *([f"experiment={experiment}"] if experiment else [])]


@pytest.mark.parametrize("name", names("sweep"))
def test_sweep_composes_and_its_keys_exist(name: str) -> None:
    cfg = composed(*swept(name), return_hydra_config=True)
    assert cfg.sweep_name == name
    for key, values in cfg.hydra.sweeper.params.items():
        if (CONFIGS / key).is_dir():
            choices = OverridesParser.create().parse_override(f"{key}={values}").sweep_string_iterator()
            assert set(choices) <= set(names(key)), key
        else:
            parent, _, leaf = key.rpartition(".")
            assert leaf in (OmegaConf.select(cfg, parent) if parent else cfg), key
    if "optimized_metric: ${monitor.metric}" in (CONFIGS / "sweep" / f"{name}.yaml").read_text():
        assert cfg.optimized_metric == cfg.monitor.metric


@pytest.mark.parametrize("name", [name for name in names("sweep") if name.startswith("optuna")])
def test_a_searchs_spaces_are_optunas_and_hold_what_is_usual(name: str) -> None:
    cfg = composed(*swept(name), return_hydra_config=True)
    fixed, space = read_space(cfg, [], cfg.hydra.sweeper.params, optuna)
    assert not fixed and len(space) >= 2
    rate = space["optimizer.lr"]
    assert rate.log and rate.low < cfg.optimizer.lr < rate.high
    instantiate(cfg.hydra.sweeper.sampler, seed=0)
    if cfg.hydra.sweeper.pruner:
        instantiate(cfg.hydra.sweeper.pruner)


@pytest.mark.parametrize("name", names("arm"))
def test_arms_differ_in_pairs_and_weights_alone(name: str) -> None:
    plain, arm = (
        OmegaConf.to_container(composed(f"experiment={ABLATION}", f"arm={one}"), resolve=True)
        for one in ("plain", name)
    )
    assert isinstance(plain, dict) and isinstance(arm, dict) and arm.pop("arm_name") == name
    given = arm["data"].pop("synthetic_dir"), arm["net"].pop("init_from")
    del plain["arm_name"], plain["data"]["synthetic_dir"], plain["net"]["init_from"]
    assert arm == plain
    assert (given[1] is not None) == (name in ("ssl", "da_ssl"))
    assert (given[0] is not None) == (name in ("da", "da_ssl", "rotated", "oracle"))


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_partials_of_every_choice_are_called(group: str) -> None:
    for name in names(group):
        call_partials(composed(f"{group}={name}"))


@pytest.mark.parametrize("name", names("net"))
def test_net_config_stands_alone(name: str) -> None:
    content: Any = OmegaConf.load(CONFIGS / "net" / f"{name}.yaml")
    text = (CONFIGS / "net" / f"{name}.yaml").read_text()
    assert "${" not in text and "defaults" not in content
    assert list(content)[:2] == ["num_classes", "in_channels"]
    with torch.device("meta"):
        net = instantiate(content)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    if stated := re.search(r"([\d,]{6,}) parameters", text):  # in the comment
        assert int(stated[1].replace(",", "")) == PARAMETERS[name]


@pytest.mark.parametrize("group", ["trainer", "logger", "callbacks", "data"])
def test_every_choice_resolves(group: str, tmp_path: Path) -> None:
    mandatory = {
        "coco": ["data.class_names=[a,b]", f"data.image_folder={tmp_path}"],
        "blood_cells": [f"data.root={tmp_path}"],
        "unlabelled": [f"data.root={tmp_path}"],
        "holograms": [f"data.root={tmp_path}"],
        "tomograms": ["data.class_names=[a,b]", f"data.root={tmp_path}"],
    }
    for name in names(group):
        resolved(composed(f"{group}={name}", f"paths.run_dir={tmp_path}", *mandatory.get(name, [])))


def test_a_labs_folder_must_be_given() -> None:
    with pytest.raises(UserError, match=r"data\.root must be given"):
        resolved(composed("data=holograms"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eval", ["ckpt_path=best.ckpt"]),
        ("predict", ["ckpt_path=best.ckpt", "input=images"]),
        ("simulate", ["output=tomograms"]),
        ("simulate", ["output=holograms", "data=sim_holograms"]),
        ("reconstruct", ["input=holograms", "output=phases"]),
        ("check", ["kind=bead", "input=phases", "output=check"]),
        ("export", ["ckpt_path=best.ckpt"]),
        ("generate", ["phase_ckpt=phase.ckpt", "mask_ckpt=mask.ckpt"]),
    ],
)
def test_the_other_verbs_compose(name: str, words: list[str]) -> None:
    resolved(composed(*words, config_name=name))


def test_python_composes_what_the_command_would(tmp_path: Path) -> None:
    own = tmp_path / "experiment" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("# @package _global_\ndefaults: [seg_unet_mobilenet_simholo_quick]\ntask_name: mine\nseed: 7\n")
    cfg = compose_config("train", ["experiment=mine", "optimizer.lr=0.5"], folder=tmp_path)
    assert (cfg.task_name, cfg.seed, cfg.optimizer.lr) == ("mine", 7, 0.5)
    assert cfg.net.encoder == composed("experiment=seg_unet_mobilenet_simholo_quick").net.encoder
    for verb, words, folder, message in (
        ("trian", [], None, "did you mean train"),
        ("train", ["net=unets"], None, "did you mean unet_s"),
        ("train", ["experiment=demo", "optimizer.rl=1"], None, r"no config key 'optimizer\.rl'.*optimizer\.lr"),
        ("train", [], tmp_path / "none", "no folder"),
    ):
        with pytest.raises(UserError, match=message):
            compose_config(verb, words, folder=folder)


def test_seed_zero_is_a_seed() -> None:
    assert composed().seed == 0


def test_the_optimizer_file_owns_the_learning_rate() -> None:
    assert composed("experiment=det_fcos_r18_pafpn_bccd", "optimizer=sgd").optimizer.lr == 0.01


# finetune_corrected starts from a checkpoint: tests/cli/test_correct_and_finetune.py
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names("experiment") if name != "finetune_corrected"])
def test_every_experiment_runs_one_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voc_folder: Path, cell_folder: Path
) -> None:
    from hemolens.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEMOLENS_BCCD", str(voc_folder))
    for kind in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"):
        shutil.copytree(cell_folder / "WBC", tmp_path / "acevedo" / kind)
    monkeypatch.setenv("HEMOLENS_ACEVEDO", str(tmp_path / "acevedo"))
    words = ["train", f"experiment={name}", "debug=one_step", "hydra.run.dir=run", "trainer.enable_progress_bar=false"]
    if name in ("gan_phase_simholo", "gan_mask_simholo"):  # 142 million parameters at 256 px
        words += ["net.width=16", "model.discriminator.widths=[16,32,32]"]
    code = main(words)
    assert code == 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    kind = "gan_phase" if name.startswith("gan_phase") else name.partition("_")[0]
    scores = {"cls": "test/f1_macro", "seg": "test/dice", "gan": "test/dice", "gan_phase": "test/over_floor"}
    scores["ssl"] = "test/reconstruction"
    score = scores.get(kind, "test/map")
    assert f'"{score}"' in (tmp_path / "run" / "metrics.json").read_text()
    if score == "test/dice":
        assert "inference" not in json.loads((tmp_path / "run" / "test.json").read_text())


def test_quick_experiments_share_the_demos_fields() -> None:
    """Equal data settings: the fields are simulated once for all of them."""
    quick = [name for name in names("experiment") if name.startswith("det_") and name.endswith("_tomogram_quick")]
    assert len(quick) == 3
    data = {name: OmegaConf.to_container(composed(f"experiment={name}").data, resolve=False) for name in quick}
    assert all(content == OmegaConf.to_container(composed("experiment=demo").data) for content in data.values())


def test_channels_follow_the_projection() -> None:
    for projection, channels in {"maximum": 1, "phase": 1, "max_mean_focus": 3}.items():
        cfg = composed("experiment=demo", f"data.projection={projection}")
        assert (cfg.data.in_channels, cfg.net.in_channels) == (channels, channels)
    assert composed("experiment=demo", "data.in_channels=3").net.in_channels == 3
