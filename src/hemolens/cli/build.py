"""Config → objects: the only place where Hydra instantiates for training and testing."""

import logging
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemolens import __name__ as package_name
from hemolens.callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from hemolens.callbacks.checkpoint_contents import CheckpointContents
from hemolens.callbacks.run_status import read_status, update_status
from hemolens.cli.run_guard import git_state
from hemolens.errors import UserError
from hemolens.tasks.precision import auto_precision

log = logging.getLogger(package_name)


def check_classes(cfg: DictConfig, class_names: tuple[str, ...]) -> None:
    """Refuse a network whose outputs do not fit the data's classes."""
    if cfg.net.num_classes != len(class_names):
        raise UserError(
            f"net.num_classes={cfg.net.num_classes}, but the data has {len(class_names)} classes "
            f"({', '.join(class_names)}): leave net.num_classes out, it follows the data"
        )


def build_task(cfg: DictConfig, class_names: tuple[str, ...]) -> L.LightningModule:
    """The task with its network, optimizer factory and schedule injected."""
    check_classes(cfg, class_names)
    task: L.LightningModule = instantiate(
        cfg.model,
        net=instantiate(cfg.net),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        class_names=list(class_names),
    )
    return task


def build_loggers(cfg: DictConfig, run_dir: Path) -> list[Logger]:
    """Loggers of the run; W&B gets the run's stored id, so that a resumed run goes on in the same W&B run."""
    loggers: list[Logger] = []
    for entry in (cfg.get("logger") or {}).values():
        logger = instantiate(entry, **_wandb_identity(run_dir) if "WandbLogger" in entry._target_ else {})
        loggers.append(logger)
    return loggers


def _wandb_identity(run_dir: Path) -> dict[str, str]:
    run_id = read_status(run_dir).get("wandb_id") or secrets.token_hex(4)
    update_status(run_dir, wandb_id=run_id)
    return {"id": run_id, "resume": "allow"}


def build_trainer(cfg: DictConfig, loggers: list[Logger], description: dict[str, Any] | None) -> L.Trainer:
    """The Trainer with the config's callbacks; ``description`` goes into each checkpoint."""
    callbacks = [instantiate(entry) for entry in (cfg.get("callbacks") or {}).values() if entry]
    if description is not None:
        callbacks.append(CheckpointContents(description))
    with open_dict(cfg):
        settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    if settings["precision"] == "auto":
        settings["precision"] = auto_precision(settings["accelerator"])
        log.info("trainer.precision=auto is %s here", settings["precision"])
    target = settings.pop("_target_")
    return instantiate({"_target_": target}, **settings, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO()])  # type: ignore[no-any-return]


def count_macs(net: nn.Module, image: torch.Tensor) -> int:
    """Multiply-accumulate operations of one forward pass on ``image`` [1, C, H, W] (FlopCounterMode counts two a MAC)."""
    was_training = net.training
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    net.train(was_training)
    return counter.get_total_flops() // 2


def log_run_facts(
    loggers: list[Logger], config: dict[str, Any], net: nn.Module, image: torch.Tensor, monitor: str | None
) -> dict[str, Any]:
    """Log the resolved config, git state, parameter count and MACs; declare W&B's best-value summaries."""
    facts = {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "macs": count_macs(net, image),
        "macs_input": list(image.shape),
        "git": git_state(),
    }
    for logger in loggers:
        logger.log_hyperparams(config | facts)
        if isinstance(logger, WandbLogger) and hasattr(logger.experiment, "define_metric"):
            logger.experiment.define_metric("val/loss", summary="min")
            logger.experiment.define_metric("train/loss", summary="min")
            if monitor:
                logger.experiment.define_metric(monitor, summary="max")
    return facts


def describe_checkpoint(cfg: DictConfig, config: dict[str, Any], datamodule: Any) -> dict[str, Any]:
    """What `hemolens.load` needs beside the weights; plain data only."""
    return {
        "version": version("hemolens"),
        "task": cfg.model._target_.rpartition(".")[2],
        "config": config,
        "class_names": list(datamodule.class_names),
        "input": datamodule.input_spec(),
    }
