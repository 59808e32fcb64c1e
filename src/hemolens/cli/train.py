"""``hemolens train``: fit, test the best checkpoint, write metrics, figures and a model card."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    from hemolens.cli.sweep_summary import print_sweep_summary

    code = run_verb("train", arguments, job)
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return print_sweep_summary(code)
    return code


def job(cfg: DictConfig) -> float | None:
    """One training run in its run folder."""
    from hemolens.cli.finetune import take_network
    from hemolens.cli.run_facts import name_tags
    from hemolens.cli.run_guard import guarded_run
    from hemolens.cli.validate import check_job

    if cfg.net_of_checkpoint:
        take_network(cfg)
        check_job(cfg, net_known=True)  # now that network and classes are known
    name_tags(cfg)
    return guarded_run(cfg, "train", train)


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Fit and test; returns every logged metric and the facts of the run."""
    import lightning as L
    import torch

    from hemolens.cli import build, finetune
    from hemolens.cli.report_run import report_test
    from hemolens.cli.run_facts import keep_best, log_run_facts
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.load import read_checkpoint
    from hemolens.io.run_folder import read_status, update_status
    from hemolens.tasks.precision import device_name

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    datamodule = build.build_datamodule(cfg)
    build.follow_data(cfg, datamodule, run_dir)
    task = build.build_task(cfg, datamodule.class_names)
    config = resolved(cfg)
    description = build.describe_checkpoint(cfg, config, datamodule)
    loggers = build.build_loggers(cfg, run_dir, "train")
    trainer = build.build_trainer(cfg, loggers, description, task=task)
    device = device_name(trainer.strategy.root_device)
    update_status(run_dir, device=device, precision=str(trainer.precision))

    ckpt_path = cfg.ckpt_path
    finetuned = finetune.starts_anew(cfg, run_dir)
    if finetuned:
        finetune.load_for_finetuning(task, ckpt_path)
    elif ckpt_path:
        finetune.check_same_classes(read_checkpoint(ckpt_path), ckpt_path, datamodule.class_names)

    datamodule.setup("fit")
    build.give_features(task, datamodule)
    if cfg.test:
        datamodule.setup("test")  # now, since a missing test image should not be found after hours of training
    before = finetune.test_before(cfg, task, datamodule) if finetuned and cfg.test else {}
    splits = ("train", "val", "test") if cfg.test else ("train", "val")
    image = datamodule.example_image()
    facts = log_run_facts(loggers, cfg, config, task, datamodule, image=image, splits=splits)
    log.info(
        "training %s, %.2f M parameters, %.2f GMAC an image of %s, in %s",
        cfg.task_name,
        facts["parameters"] / 1e6,
        facts["macs"] / 1e9,
        "x".join(map(str, facts["macs_input"][1:])),
        run_dir,
    )
    trainer.fit(task, datamodule=datamodule, ckpt_path=None if finetuned else ckpt_path, weights_only=True)
    _say_if_time_was_up(trainer)
    metrics = dict(trainer.callback_metrics) or dict(read_status(run_dir).get("fit_metrics", {}))
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    testing = cfg.test and best and not read_status(run_dir).get("pruned")
    if testing:
        trainer.test(task, datamodule=datamodule, ckpt_path=best, verbose=False, weights_only=True)
        metrics |= dict(trainer.callback_metrics)
    plain = {name: float(value) for name, value in metrics.items()}
    plain |= before | {"parameters": facts["parameters"], "macs": facts["macs"]}
    if testing and trainer.is_global_zero:
        report_test(
            task,
            datamodule,
            run_dir,
            config,
            plain,
            checkpoint=Path(best),
            device=device,
            precision=str(trainer.precision),
            timed=not cfg.cap,  # of a trial it would take longer than all else, and say nothing
        )
        finetune.report_gain(before, plain, datamodule.class_names, run_dir)
    keep_best(loggers, trainer, plain, cfg)
    return plain


def _say_if_time_was_up(trainer: Any) -> None:
    """A training that ``trainer.max_time`` cut short scores less than others say of it: on a slower machine, say."""
    from lightning.pytorch.callbacks import Timer

    timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)
    if timer is None or (timer.time_remaining() or 0) > 0:
        return
    steps, done = trainer.estimated_stepping_batches, trainer.fit_loop.epoch_loop._batches_that_stepped
    if done < steps < math.inf:
        log.warning(
            "trainer.max_time was up after %d of %d steps: for all of them give more, or trainer.max_time=null",
            done,
            steps,
        )
