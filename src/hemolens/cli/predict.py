"""``hemolens predict``: images in; tables, COCO JSON, GeoJSON and overlays out."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError
from hemolens.io.volumes import is_volume

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("predict", arguments, predict)


def predict(cfg: DictConfig) -> None:
    """Find cells in every file of ``cfg.input`` and write the results into a new folder.

    Files that cannot be read are named and left out; the others are done, and the exit code is 1.
    """
    from rich.progress import track

    from hemolens.cli.run_guard import resolved
    from hemolens.inference.load import load
    from hemolens.inference.outputs import DetectedImage, check_output_folder, write_detection_outputs
    from hemolens.inference.pictures import list_pictures
    from hemolens.io.detections import ImageDetections

    config = resolved(cfg)
    source = Path(cfg.input)
    if not source.exists():
        raise UserError(f"no image, tomogram or folder at input={source}")
    changes: dict[str, Any] = {key: cfg[key] for key in ("nms_iou", "max_detections") if cfg[key] is not None}
    predictor = load(cfg.ckpt_path, device=cfg.device, precision=cfg.precision, **changes)
    settings = predictor.task.decode_settings
    settings["score_threshold"] = min(settings["score_threshold"], cfg.score_threshold)
    output = Path(cfg.output) if cfg.output else Path(cfg.ckpt_path).absolute().parents[1] / "predictions"
    check_output_folder(output, overwrite=False)
    single = source.is_file() or is_volume(source)  # a Zarr volume is a folder
    paths = [source] if single else list_pictures(source, predictor.input_spec.projection)
    base = source.parent if single else source
    skipped: list[UserError] = []

    def detected() -> Iterator[DetectedImage]:
        for path in track(paths, description="predict"):
            try:
                image = predictor.read(path, config["volume"])
                found = predictor.predict(image)
            except UserError as error:
                log.error("left out: %s", error)
                skipped.append(error)
                continue
            name, (height, width) = path.relative_to(base).as_posix(), image.shape[:2]
            kept = found["scores"] >= cfg.score_threshold  # the network's own cut is on the class score alone
            found = {key: values[kept] for key, values in found.items()}
            yield DetectedImage(ImageDetections(file_name=name, height=height, width=width, **found), image)
        if len(skipped) == len(paths):
            raise (
                skipped[0]
                if len(paths) == 1
                else UserError(
                    f"none of the {len(paths)} files in {source} can be read; the first: {skipped[0]}", exit_code=1
                )
            )

    info = {
        "checkpoint": str(cfg.ckpt_path),
        "score_threshold": cfg.score_threshold,
        "decode": settings,
    }
    results = write_detection_outputs(output, detected(), predictor.class_names, info=info, overlays=cfg.overlays)
    print(f"{sum(map(len, results))} cells in {len(results)} images: {output}")
    if skipped:
        raise UserError(f"{len(skipped)} of {len(paths)} files were left out; the first: {skipped[0]}", exit_code=1)
