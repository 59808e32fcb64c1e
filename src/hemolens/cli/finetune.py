"""Start from another run's checkpoint: refuse other classes unless asked, say what was loaded and what was gained."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf, open_dict

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli import build
from hemolens.errors import UserError
from hemolens.inference.load import read_checkpoint, without_weight_files
from hemolens.inference.safety import check_targets
from hemolens.io.atomic import atomic_path

log = logging.getLogger("hemolens")


def starts_anew(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether training begins from the weights of ``cfg.ckpt_path``; False: from nothing, or where it stopped."""
    return bool(cfg.finetune) and not Path(cfg.ckpt_path).absolute().is_relative_to(run_dir.absolute())


def take_network(cfg: DictConfig) -> None:
    """With ``net_of_checkpoint`` put the checkpoint's net and model into the config, and its classes if none are there.

    Raises:
        UserError: a checkpoint that names foreign code, or data that reach the network otherwise than those it
            was trained on.
    """
    if not cfg.net_of_checkpoint:
        return
    stored = read_checkpoint(cfg.ckpt_path)[KEY]
    net, model = dict(stored["config"]["net"]), dict(stored["config"]["model"])
    for part in (net, model):
        check_targets(part, source=str(cfg.ckpt_path))
    net = without_weight_files(net)
    with open_dict(cfg):
        if OmegaConf.is_missing(cfg.data, "class_names"):
            cfg.data.class_names = stored["class_names"]
        cfg.net = net | {name: cfg.net[name] for name in ("num_classes", "in_channels")}
        cfg.model = model
    seen, wanted = build.build_datamodule(cfg).input_spec(), stored["input"]
    other = [
        f"{name}: {seen.get(name)} instead of {wanted.get(name)}" for name in wanted if seen.get(name) != wanted[name]
    ]
    if other:
        raise UserError(
            f"{cfg.ckpt_path} was trained on other input than data={cfg.data._target_.rpartition('.')[2]} gives "
            f"({'; '.join(other)}): set data.in_channels and the like as in training, or net_of_checkpoint=false"
        )


def test_before(cfg: DictConfig, task: L.LightningModule, datamodule: Any) -> dict[str, float]:
    """Test metrics of the weights that fine-tuning starts from, named ``before/…``; none where classes are new.

    Training draws the same numbers as without this test.
    """
    if tuple(read_checkpoint(cfg.ckpt_path)[KEY]["class_names"]) != tuple(datamodule.class_names):
        return {}
    trainer = build.build_silent_trainer(cfg)
    if trainer.world_size > 1:
        log.info("not tested before fine-tuning: that is done on one device only")
        return {}
    trainer.test(task, datamodule=datamodule, verbose=False)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    return {name.replace("test/", "before/", 1): float(value) for name, value in trainer.callback_metrics.items()}


def report_gain(before: Mapping[str, float], after: Mapping[str, float], names: Sequence[str], run_dir: Path) -> None:
    """Print the scores before and after fine-tuning on the same test images, and write them to ``gain.md``.

    Args:
        before: of :func:`test_before`; nothing is reported without.
        after: metrics of the test that followed.
        names: the classes.
        run_dir: the run's folder.
    """
    keys = {"map": "mAP"} | {f"ap_{name}": f"AP {name}" for name in names} | {"accuracy": "accuracy of matched cells"}
    lines = ["| test | before | after | change |", "| --- | ---: | ---: | ---: |"]
    for key, title in keys.items():
        if f"before/{key}" in before:
            old, new = before[f"before/{key}"], after[f"test/{key}"]
            told = (f"{old:.3f}", f"{new:.3f}", f"{new - old:+.3f}") if math.isfinite(new - old) else ("–", "–", "–")
            lines.append(f"| {title} | {' | '.join(told)} |")
    if len(lines) == 2:
        return
    table = "\n".join(lines)
    print(f"\nBefore and after fine-tuning, on the same test images:\n\n{table}", flush=True)
    with atomic_path(run_dir / "gain.md", overwrite=True) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")


def check_same_classes(checkpoint: dict[str, Any], path: str | Path, class_names: tuple[str, ...]) -> None:
    """Refuse to resume or test a checkpoint on data with other classes."""
    stored = tuple(checkpoint[KEY]["class_names"])
    if stored != tuple(class_names):
        raise UserError(
            f"{path} was trained for {len(stored)} classes ({', '.join(stored)}), the data has {len(class_names)} "
            f"({', '.join(class_names)}): add finetune=true to keep the weights and replace the head"
        )


def load_for_finetuning(task: L.LightningModule, path: str | Path) -> None:
    """Load every weight whose name and shape fit; the rest (the classifier of other classes) starts anew.

    Prints what was loaded and what was replaced. Nothing fitting at all is an error.
    """
    stored = {name: weight for name, weight in read_checkpoint(path)["state_dict"].items() if name.startswith("net.")}
    own = {name: weight for name, weight in task.state_dict().items() if name.startswith("net.")}
    fitting = {name: weight for name, weight in stored.items() if name in own and own[name].shape == weight.shape}
    if not fitting:
        raise UserError(f"no weight of {path} fits this network: choose the net it was trained with (net=…)")
    task.load_state_dict(fitting, strict=False)
    replaced = [
        f"{name} {tuple(stored[name].shape)} -> {tuple(own[name].shape)}"
        for name in stored
        if name in own and name not in fitting
    ]
    unused = sorted(set(stored) - set(own))
    new = sorted(set(own) - set(stored))
    log.info("fine-tuning from %s: loaded %d of %d tensors", path, len(fitting), len(own))
    for label, names in (
        ("replaced, starts anew", replaced),
        ("not in the checkpoint, starts anew", new),
        ("in the checkpoint, not used", unused),
    ):
        if names:
            log.info("  %s: %s", label, "; ".join(names))
