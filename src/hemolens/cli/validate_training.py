"""What a training's config tells about it before any data is read: combinations that cannot work, and what lacks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from lightning.pytorch.accelerators import AcceleratorRegistry
from omegaconf import DictConfig, OmegaConf

from hemolens.cli import combinations
from hemolens.cli.explain import nearest
from hemolens.inference.load import missing_checkpoint

# Files and folders that must be there, each with what it is.
_PLACES = {
    "data.root": "folder",
    "data.image_folder": "folder",
    "data.phase_images.root": "folder",
    "data.synthetic_dir": "folder",
    "net.init_from": "file",
}


def find_combinations(tree: Mapping[str, Any], *, net_known: bool = True) -> list[str]:
    """Parts of a training that do not go together; ``net_known``: not left to a checkpoint that was not read yet."""
    found: list[str | None] = [*_endless(tree["trainer"])]
    if tree["finetune"] and not tree["ckpt_path"]:
        found.append("finetune=true needs the checkpoint to start from: add ckpt_path=<run>/checkpoints/best.ckpt")
    elif tree["net_of_checkpoint"] and not tree["ckpt_path"]:
        found.append("the network is that of a checkpoint: add ckpt_path=<run>/checkpoints/best.ckpt")
    if not net_known:
        return [line for line in found if line]
    data, net, model = tree["data"], tree["net"], tree["model"]
    task, network, module = (get_object(part["_target_"]) for part in (model, net, data))
    if not isinstance(task, type) or not isinstance(module, type):  # a function of the user's own
        return [line for line in found if line]
    if mismatch := combinations.wrong_data(task, module) or combinations.wrong_net(task, network):
        found.append(mismatch)
    else:
        of_mask = bool(net.get("of_mask", False))
        found.append(combinations.wrong_condition(task, network, model.get("condition"), of_mask))
        found.append(combinations.wrong_side(net.get("image_px"), module, data.get("patch_px"), data.get("binning")))
        found += _metrics(tree, task)
    found += combinations.ignored_settings(task, tree["trainer"])
    found += _follows_data(data, net)
    return [line for line in found if line]


def _endless(trainer: Mapping[str, Any]) -> list[str]:
    ends = trainer.get("max_epochs") not in (None, -1), trainer.get("max_steps", -1) != -1, trainer.get("max_time")
    if any(ends):
        return []
    return ["trainer.max_epochs, max_steps and max_time are all open: the training would never end; set one"]


def _metrics(tree: Mapping[str, Any], task: type) -> list[str | None]:
    names = tree["data"].get("class_names")
    monitored, wanted = tree["monitor"]["metric"], tree["optimized_metric"]
    found: list[str | None] = []
    for key, name in (("monitor.metric", monitored), ("optimized_metric", wanted)):
        if name and (line := combinations.unknown_metric(task, name, names)):
            found.append(f"{key}={name}: {line}")
    if wanted and wanted.startswith("test/") and not tree["test"]:
        found.append(f"optimized_metric={wanted} is of the test, which test=false leaves out")
    if tree["monitor"]["mode"] not in ("min", "max"):
        found.append(f"monitor.mode={tree['monitor']['mode']}: choose min or max")
    return found


def _follows_data(data: Mapping[str, Any], net: Mapping[str, Any]) -> list[str | None]:
    found: list[str | None] = []
    if data.get("class_names") is not None:  # else the data module finds them in its folders
        found.append(combinations.wrong_classes(net["num_classes"], data["class_names"]))
    if net["in_channels"] != data.get("in_channels", net["in_channels"]):
        found.append(
            f"net.in_channels={net['in_channels']}, but the data have {data['in_channels']}: leave net.in_channels "
            "out, it follows the data"
        )
    return found


def find_lacking(tree: Mapping[str, Any], cfg: DictConfig) -> list[str]:
    """Folders, files and devices that this machine does not have."""
    found = [line for key, kind in _PLACES.items() if (line := _absent(tree, cfg, key, kind))]
    if tree["ckpt_path"]:
        found += [line for line in [missing_checkpoint(tree["ckpt_path"])] if line]
    trainer = tree["trainer"]
    devices = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if trainer["accelerator"] not in devices:
        near = nearest(trainer["accelerator"], devices, "choose")
        found.append(f"trainer.accelerator={trainer['accelerator']}: no such device{near}")
    if trainer["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available() and not _other_gpu():
        found.append(
            f"trainer.accelerator={trainer['accelerator']}, but torch finds no GPU here: add trainer=cpu, or see "
            "`hemolens doctor`"
        )
    return found


def _other_gpu() -> bool:
    """Apple's, which Lightning calls a GPU too."""
    return torch.backends.mps.is_available()


def _absent(tree: Mapping[str, Any], cfg: DictConfig, key: str, kind: str) -> str | None:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not value:
        return None
    place = Path(str(value)).expanduser()
    if place.is_dir() if kind == "folder" else place.exists():
        return None
    parent, _, last = key.rpartition(".")
    raw = str(OmegaConf.select(cfg, parent)._get_node(last))
    variables = [name for name in re.findall(r"oc\.env:(\w+)", raw) if name != "HEMOLENS_DATA"]
    also = f", or the environment variable {variables[0]}" if variables else ""
    return f"{key}={value}: no such {kind}; set {key}{also} to where it lies"
