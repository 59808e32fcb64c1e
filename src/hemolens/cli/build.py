"""Config → objects: the only place where Hydra instantiates for training and testing."""

import logging
import os
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemolens import __name__ as package_name
from hemolens.callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from hemolens.callbacks.checkpoint_contents import CheckpointContents
from hemolens.callbacks.progress import ProgressBar
from hemolens.callbacks.trial_pruning import TrialPruning
from hemolens.cli import combinations
from hemolens.cli.launchers import DEVICE_VARIABLE
from hemolens.cli.optuna_search import open_trial
from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.io.run_folder import read_status, update_status
from hemolens.tasks.precision import auto_precision

log = logging.getLogger(package_name)

for _chatty in ("lightning", "lightning.pytorch", "lightning.fabric"):
    # Tips, and "limit_val_batches=1.0 was configured"; their own handlers would print warnings twice.
    logging.getLogger(_chatty).handlers.clear()
    logging.getLogger(_chatty).setLevel(logging.WARNING)


def build_datamodule(cfg: DictConfig) -> Any:
    """The data module; with ``cfg.cap`` (debug=one_step) it is cut down to a quick trial."""
    config: dict[str, Any] = OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[assignment]
    if cfg.cap:
        cap = dict(cfg.cap)
        if wanted := cfg.net.get("image_px"):  # a network made for one size
            cap["image_px"] = max(cap["image_px"], wanted * config.get("binning", 1))
        config = get_object(config["_target_"]).capped(config, **cap)
    return instantiate(config)


def follow_data(cfg: DictConfig, datamodule: Any, run_dir: Path) -> None:
    """Write the classes that a data module found in its folders into a config that left them open."""
    if cfg.data.class_names is not None:
        return
    with open_dict(cfg):
        cfg.data.class_names = list(datamodule.class_names)
    with atomic_path(run_dir / "config_resolved.yaml", overwrite=True) as temporary:
        temporary.write_text(OmegaConf.to_yaml(cfg, resolve=True))


def check_data(task: Any, datamodule: Any) -> None:
    """Refuse data whose batches the task of a checkpoint cannot take; of a training `validate` knows it before."""
    kind = type(datamodule)
    image_px = getattr(task.net, "image_px", None)
    patch_px, binning = (getattr(datamodule, key, None) for key in ("patch_px", "binning"))
    if wrong := combinations.wrong_data(type(task), kind) or combinations.wrong_side(image_px, kind, patch_px, binning):
        raise UserError(wrong)


def build_task(cfg: DictConfig, class_names: tuple[str, ...]) -> Any:
    """The task with its network, optimizer factory and schedule injected."""
    if wrong := combinations.wrong_classes(cfg.net.num_classes, class_names):  # that the data module found
        raise UserError(wrong)
    return instantiate(
        cfg.model,
        net=instantiate(cfg.net),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        class_names=list(class_names),
    )


def give_features(task: Any, datamodule: Any) -> None:
    """Hand a generator the network in whose features its images are judged, where ``model.feature_checkpoint`` names
    one.

    Raises:
        UserError: no such checkpoint, or one without an encoder.
    """
    if not getattr(task, "feature_checkpoint", None):
        return
    from hemolens.inference.image_features import encoder_features

    log.info("Frechet and kernel distance: in features of %s, not Inception's", task.feature_checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task.features = encoder_features(
        task.feature_checkpoint, pixel_um=datamodule.input_spec()["pixel_um"], device=device
    )


def build_loggers(cfg: DictConfig, run_dir: Path, job_type: str) -> list[Logger]:
    """Loggers of the run; W&B gets the run's stored id, so that a resumed run goes on in the same W&B run.

    W&B's copies of tables wait for an upload in the run folder, not in the home folder, where they would outlive it.
    """
    loggers: list[Logger] = []
    for entry in (cfg.get("logger") or {}).values():
        wandb_run = _wandb_run(run_dir, job_type) if entry._target_.endswith(("RunLogger", "WandbLogger")) else {}
        loggers.append(instantiate(entry, **wandb_run))
    return loggers


def _wandb_run(run_dir: Path, job_type: str) -> dict[str, str]:
    # an agent of a W&B sweep has begun the run already
    of_sweep = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    run_id = read_status(run_dir).get("wandb_id") or of_sweep or secrets.token_hex(4)
    update_status(run_dir, wandb_id=run_id)
    os.environ.setdefault("WANDB_DATA_DIR", str(run_dir / "wandb"))  # guarded_run takes it back
    return {"id": run_id, "resume": "allow", "name": run_dir.name, "job_type": job_type}


def build_trainer(
    cfg: DictConfig, loggers: list[Logger], description: dict[str, Any] | None, *, task: L.LightningModule
) -> L.Trainer:
    """The Trainer for a task with the config's callbacks; ``description`` goes into each checkpoint."""
    callbacks = [instantiate(entry) for entry in (cfg.get("callbacks") or {}).values() if entry]
    if callbacks and (trial := open_trial()) is not None:  # stopped early where other trials of the search do better
        callbacks.append(TrialPruning(trial, cfg.optimized_metric, cfg.paths.run_dir))
    if description is not None:
        callbacks.append(CheckpointContents(description))
    settings = _trainer_settings(cfg)
    if settings.get("enable_progress_bar"):
        callbacks.append(ProgressBar())
    if settings["strategy"] == "ddp" and not task.automatic_optimization:
        settings["strategy"] = "ddp_find_unused_parameters_true"  # each backward pass is of one of two networks
    if cfg.trainer.precision == "auto":
        log.info("trainer.precision=auto is %s here", settings["precision"])
    plugins = [AtomicCheckpointIO(), *_cluster()]
    trainer: L.Trainer = instantiate(
        settings, callbacks=callbacks, logger=loggers, plugins=plugins, _convert_="partial"
    )
    return trainer


def build_silent_trainer(cfg: DictConfig) -> L.Trainer:
    """A Trainer that tests as :func:`build_trainer`'s would, and writes and logs nothing."""
    settings = _trainer_settings(cfg)
    trainer: L.Trainer = instantiate(settings, logger=False, enable_checkpointing=False, plugins=_cluster())
    return trainer


def _cluster() -> list[Any]:
    """SLURM, where srun started this process.

    RunStatus saves at the end of a batch; Lightning would in the middle of one, and queue the job again by itself.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _trainer_settings(cfg: DictConfig) -> dict[str, Any]:
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    if settings["precision"] == "auto":
        settings["precision"] = auto_precision(settings["accelerator"])
    if device := os.environ.get(DEVICE_VARIABLE):
        settings["devices"] = [int(device)]
    return settings


def count_macs(net: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass on ``inputs`` (FlopCounterMode counts each as two)."""
    was_training = net.training
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*inputs)
    net.train(was_training)
    return counter.get_total_flops() // 2


def describe_checkpoint(cfg: DictConfig, config: dict[str, Any], datamodule: Any) -> dict[str, Any]:
    """What `hemolens.load` needs beside the weights; plain data only."""
    phases = datamodule if isinstance(datamodule, PhaseImageDataModule) else getattr(datamodule, "phase_images", None)
    return {
        "version": version("hemolens"),
        # so that what a generator makes is not trained on beside a test of what the generator saw
        "train_images": [record.name for record in phases.records("train")] if phases else [],
        "task": cfg.model._target_.rpartition(".")[2],
        "config": config,
        "class_names": list(datamodule.class_names),
        "input": datamodule.input_spec(),
    }
