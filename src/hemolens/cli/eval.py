"""``hemolens eval``: test a checkpoint on its own or on other data."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("eval", arguments, job)


def job(cfg: DictConfig) -> float | None:
    """One test run in its run folder."""
    from hemolens.cli.run_facts import name_tags
    from hemolens.cli.run_guard import guarded_run

    name_tags(cfg)
    return guarded_run(cfg, "eval", evaluate)


def evaluate(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Test ``cfg.ckpt_path``; returns the metrics."""
    import lightning as L
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from hemolens.callbacks.checkpoint_contents import KEY
    from hemolens.cli import build, finetune
    from hemolens.cli.report_run import report_test
    from hemolens.cli.run_facts import log_run_facts
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.load import DEMO, build_task, read_checkpoint
    from hemolens.inference.safety import check_targets
    from hemolens.inference.type_calibration import CALIBRATION_JSON, calibrate_types

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = read_checkpoint(cfg.ckpt_path)
    stored = checkpoint[KEY]
    if cfg.data is None or "_target_" not in cfg.data:  # difficulty=… alone changes the checkpoint's own data
        check_targets(stored["config"]["data"], source=cfg.ckpt_path)
        data = OmegaConf.merge(OmegaConf.create(stored["config"]["data"]), cfg.data or {}, cfg.data_overrides)
    else:
        data = OmegaConf.merge(cfg.data, cfg.data_overrides)
    datamodule = instantiate(data)
    finetune.check_same_classes(checkpoint, cfg.ckpt_path, datamodule.class_names)
    for name, trained in stored["input"].items():
        if name in ("pixel_um", "wavelength_um") and (here := datamodule.input_spec().get(name)) not in (None, trained):
            log.warning(
                "%s is %g here and was %s in training: scores are of images at another scale", name, here, trained
            )
    if cfg.calibrate and cfg.ckpt_path == DEMO:
        raise UserError(f"ckpt_path={DEMO} comes with its calibration: leave calibrate out, or copy the checkpoint")
    if cfg.calibrate and not stored["task"].endswith("SegmentationTask"):
        raise UserError(f"calibrate=true is for segmentations: {cfg.ckpt_path} holds a {stored['task']}")
    changes = {name: value for name, value in cfg.decode.items() if value is not None}
    task = build_task(checkpoint, source=cfg.ckpt_path, **changes)
    build.check_data(task, datamodule)
    build.give_features(task, datamodule)
    loggers = build.build_loggers(cfg, run_dir, "eval")
    trainer = build.build_trainer(cfg, loggers, None, task=task)
    datamodule.setup("test")
    image = next(iter(datamodule.test_dataloader()))["images"][:1]
    config = resolved(cfg) | {"checkpoint_config": stored["config"]}
    log_run_facts(loggers, cfg, config, task, datamodule, image=image, splits=("test",))
    trainer.test(task, datamodule=datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        precision = str(trainer.precision)
        report_test(task, datamodule, run_dir, stored["config"], metrics, checkpoint=None, precision=precision)
        if cfg.calibrate:
            kept = Path(cfg.ckpt_path).parent / CALIBRATION_JSON
            found = calibrate_types(task.eval(), datamodule, run_dir, Path(cfg.ckpt_path))
            print(
                f"\nTypes of {found['tested_on']} test cells: calibration error {found['calibration_error_raw']:.3f}, "
                f"{found['calibration_error']:.3f} with a temperature of {found['temperature']:.3g} "
                f"(of {found['fitted_on']} validation cells): {kept}"
            )
    return metrics
