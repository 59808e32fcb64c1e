"""What a run is, for those who compare runs: its tags, its data by digest, its size, its code, its command."""

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, open_dict

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.callbacks.wandb_run import define_metrics, log_best, use_checkpoint, use_data, wandb_runs
from hemolens.cli.build import count_macs
from hemolens.cli.run_guard import git_state
from hemolens.data.modules.coco import CocoDetectionDataModule
from hemolens.data.modules.holograms import HologramDataModule
from hemolens.inference.load import read_checkpoint
from hemolens.inference.safety import check_targets
from hemolens.io.run_folder import read_status

log = logging.getLogger("hemolens")

TEXTS = (".json", ".geojson", ".xml", ".csv", ".tsv", ".txt")  # annotations: their contents are in the digest
METADATA_KEYS = 90  # W&B takes 100


def name_tags(cfg: DictConfig) -> None:
    """Put family, net and data in front of ``cfg.tags``, as they were chosen, whatever the experiment's file says.

    A checkpoint's own (``eval``, ``net_of_checkpoint``) where the config chooses none.
    """
    choices = HydraConfig.get().runtime.choices
    stored: list[Any] = [None, None, None]
    if "net" not in choices or cfg.get("net_of_checkpoint"):
        content = read_checkpoint(cfg.ckpt_path)[KEY]["config"]
        check_targets(content["model"], source=str(cfg.ckpt_path))
        stored = [*content.get("tags", []), *stored][:3]
        family = get_object(content["model"]["_target_"]).family
        net = stored[1] or content["net"]["_target_"].rpartition(".")[2]
    else:
        family, net = get_object(cfg.model._target_).family, choices["net"]
    chosen = choices.get("data")
    data = chosen if chosen not in (None, "null") else stored[2] or "data"
    with open_dict(cfg):
        cfg.tags = list(dict.fromkeys([family, net, data, *cfg.tags]))


def data_facts(datamodule: Any, splits: Sequence[str], name: str) -> dict[str, Any]:
    """Which data a run saw, without reading all of them.

    The digest is that of the simulation's settings and code, or, of folders, of the name and length of every file and
    the contents of :data:`TEXTS`: it changes with a file that comes, goes or grows, and with an annotation.

    Args:
        datamodule: a data module that has been set up.
        splits: whose cells or pictures are counted.
        name: of simulated data, which have no folder of their own.

    Returns:
        ``name``, ``digest``, ``source`` (the folder as the config names it; None: simulated), and of each split
        ``counts`` by class and a line that describes it.
    """
    images = getattr(datamodule, "phase_images", datamodule)
    places = [getattr(images, key, None) for key in ("root", "image_folder", "synthetic_dir")]
    if isinstance(images, CocoDetectionDataModule):  # whose annotations may lie anywhere
        places += [*images.files.values(), images.annotations]
    if isinstance(images, HologramDataModule) and Path(images.phase_folder).is_absolute():
        places.append(images.phase_folder)
    digest, source = hashlib.sha256(), None
    if hasattr(images, "plan"):
        digest.update(images.plan.fingerprint().encode())
    for place in (Path(place).expanduser() for place in places if place is not None):
        if source is None and not hasattr(images, "plan"):
            name, source = place.resolve().name, str(place)
        _add_place(digest, place)
    names = datamodule.class_names
    counts = {split: datamodule.class_counts(split) for split in splits}
    return {
        "name": name,
        "digest": digest.hexdigest()[:32],
        "source": source,
        "counts": {s: c if isinstance(c, Mapping) else dict(zip(names, c, strict=True)) for s, c in counts.items()},
        "described": {split: datamodule.describe(split) for split in splits},
    }


def _add_place(digest: Any, place: Path) -> None:
    """Add a file, or all files of a folder but hidden ones."""
    if place.is_file():
        digest.update(place.read_bytes())
    for inside, folders, files in os.walk(place):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for file in sorted(one for one in files if not one.startswith(".")):
            path = Path(inside) / file
            digest.update(f"{path.relative_to(place).as_posix()} {path.stat().st_size}\n".encode())
            if path.suffix.lower() in TEXTS:
                digest.update(path.read_bytes())


def log_run_facts(
    loggers: list[Logger],
    cfg: DictConfig,
    config: dict[str, Any],
    task: Any,
    datamodule: Any,
    *,
    image: torch.Tensor,
    splits: Sequence[str],
) -> dict[str, Any]:
    """Log the resolved config and the facts of a run; declare W&B's summaries and inputs.

    Args:
        loggers: of the run.
        cfg: ``ckpt_path`` is another run's where training starts from one.
        config: what the loggers get as the config.
        task: knows its metrics.
        datamodule: the run's.
        image: [1, C, H, W], for which multiply-accumulates are counted.
        splits: of the data that the run looks at.

    Returns:
        ``parameters``, ``macs``, ``macs_input``, ``git``, ``hydra`` and, with W&B, ``data_set``.
    """
    hydra_cfg = HydraConfig.get()
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
        "macs": count_macs(task.net, *task.example_inputs(image)),
        "macs_input": list(image.shape),
        "git": git_state(),
        "hydra": {
            "overrides": list(hydra_cfg.overrides.task),
            "choices": {name: choice for name, choice in hydra_cfg.runtime.choices.items() if "hydra/" not in name},
        },
    }
    if wandb_runs(loggers):
        facts["data_set"] = data_facts(datamodule, splits, cfg.tags[2])
    for logger in loggers:
        logger.log_hyperparams(config | facts)
    monitor = cfg.get("monitor") or {"metric": None, "mode": "max"}
    define_metrics(loggers, task.metrics, task.class_names, monitor["metric"], monitor["mode"])
    if "data_set" in facts:
        use_data(loggers, facts["data_set"])
    if cfg.ckpt_path:
        origin = Path(cfg.ckpt_path).absolute().parents[1]
        if origin != Path(cfg.paths.run_dir).absolute():
            use_checkpoint(loggers, read_status(origin).get("wandb_id"))
    return facts


def keep_best(loggers: list[Logger], trainer: Any, metrics: Mapping[str, float], cfg: DictConfig) -> None:
    """Keep the best checkpoint in W&B with what it scored, once all of the run has gone well."""
    kept = trainer.checkpoint_callback
    if not getattr(kept, "best_model_path", ""):
        return
    score = math.nan if kept.best_model_score is None else float(kept.best_model_score)
    facts = {"task_name": cfg.task_name, "tags": list(cfg.tags), "seed": cfg.seed}
    scores = {"monitored": score} | {name: value for name, value in metrics.items() if name.startswith("test/")}
    # W&B refuses infinity, which is the best so far where no value was a number
    told = {name: value if math.isfinite(value) else None for name, value in list(scores.items())[:METADATA_KEYS]}
    log_best(loggers, Path(kept.best_model_path), facts | {"monitor": cfg.monitor.metric} | told)
