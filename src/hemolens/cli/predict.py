"""``hemolens predict``: images in; tables, COCO JSON, GeoJSON and overlays out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("predict", arguments, predict)


def predict(cfg: DictConfig) -> None:
    """Find cells in every image of ``cfg.input`` and write the results into a new folder."""
    from rich.progress import track

    from hemolens.cli.run_guard import resolved
    from hemolens.inference.load import load
    from hemolens.inference.outputs import DetectedImage, check_output_folder, write_detection_outputs
    from hemolens.io.detections import ImageDetections
    from hemolens.io.images import list_images, read_image

    resolved(cfg)
    source = Path(cfg.input)
    if not source.exists():
        raise UserError(f"no image or folder at input={source}")
    changes: dict[str, Any] = {key: cfg[key] for key in ("nms_iou", "max_detections") if cfg[key] is not None}
    predictor = load(cfg.ckpt_path, device=cfg.device, precision=cfg.precision, **changes)
    settings = predictor.task.decode_settings
    settings["score_threshold"] = min(settings["score_threshold"], cfg.score_threshold)
    output = Path(cfg.output) if cfg.output else Path(cfg.ckpt_path).absolute().parents[1] / "predictions"
    check_output_folder(output, overwrite=False)
    paths = [source] if source.is_file() else list_images(source)
    base = source.parent if source.is_file() else source

    def detected() -> Iterator[DetectedImage]:
        for path in track(paths, description="predict"):
            image = read_image(path)
            name, (height, width) = path.relative_to(base).as_posix(), image.shape[:2]
            found = predictor.predict(image)
            kept = found["scores"] >= cfg.score_threshold  # the network's own cut is on the class score alone
            found = {key: values[kept] for key, values in found.items()}
            yield DetectedImage(ImageDetections(file_name=name, height=height, width=width, **found), image)

    info = {
        "checkpoint": str(cfg.ckpt_path),
        "score_threshold": cfg.score_threshold,
        "decode": settings,
    }
    results = write_detection_outputs(output, detected(), predictor.class_names, info=info, overlays=cfg.overlays)
    print(f"{sum(map(len, results))} cells in {len(results)} images: {output}")
