"""``hemolens predict``: images in; tables, COCO JSON, GeoJSON and overlays out."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError
from hemolens.io.volumes import is_volume

if TYPE_CHECKING:
    from hemolens.inference.hematology import HematologyOutputs
    from hemolens.inference.load import DetectionPredictor
    from hemolens.inference.samples import SampleFile

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("predict", arguments, predict)


def predict(cfg: DictConfig) -> None:
    """Find cells in every file of ``cfg.input`` and write the results into a new folder.

    Files that cannot be read or measured are named and left out; the others are done, and the exit code is 1.
    """
    from rich.progress import track

    from hemolens.cli.run_guard import resolved
    from hemolens.inference.load import load
    from hemolens.inference.outputs import DetectedImage, check_output_folder, write_detection_outputs
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
    files, more = _pipeline(cfg, config, source, predictor)
    skipped: list[UserError] = []

    def leave_out(error: UserError) -> None:
        log.error("left out: %s", error)
        skipped.append(error)

    def detected() -> Iterator[DetectedImage]:
        for file in track(files, description="predict"):
            try:
                image = predictor.read(file.path, config["volume"])
                found = predictor.predict(image)
            except UserError as error:
                leave_out(error)
                continue
            height, width = image.shape[:2]
            kept = found["scores"] >= cfg.score_threshold  # the network's own cut is on the class score alone
            found = {key: values[kept] for key, values in found.items()}
            yield DetectedImage(ImageDetections(file_name=file.name, height=height, width=width, **found), image)
        if len(skipped) == len(files):
            raise (
                skipped[0]
                if len(files) == 1
                else UserError(
                    f"none of the {len(files)} files in {source} can be read; the first: {skipped[0]}", exit_code=1
                )
            )

    info = {
        "checkpoint": str(cfg.ckpt_path),
        "score_threshold": cfg.score_threshold,
        "decode": settings,
    }
    results = write_detection_outputs(
        output, detected(), predictor.class_names, info=info, overlays=cfg.overlays, more=more, leave_out=leave_out
    )
    print(f"{sum(map(len, results))} cells in {len(results)} images: {output}")
    if skipped:
        raise UserError(f"{len(skipped)} of {len(files)} files were left out; the first: {skipped[0]}", exit_code=1)


def _pipeline(
    cfg: DictConfig, config: dict[str, Any], source: Path, predictor: "DetectionPredictor"
) -> tuple[list["SampleFile"], "HematologyOutputs | None"]:
    """The files to look at, and what is measured in them beside the detections."""
    from hemolens.inference.pictures import list_pictures
    from hemolens.inference.samples import SampleFile, list_samples

    if cfg.pipeline == "detection":
        single = source.is_file() or is_volume(source)  # a Zarr volume is a folder
        paths = [source] if single else list_pictures(source, predictor.input_spec.projection)
        base = source.parent if single else source
        return [SampleFile(path, path.relative_to(base).as_posix(), "") for path in paths], None
    if cfg.pipeline != "hematology":
        raise UserError(f"pipeline={cfg.pipeline}: choose detection or hematology")
    if predictor.input_spec.projection is None:
        raise UserError("pipeline=hematology measures tomograms, but this detector was trained on images")
    from hemolens.analysis.indices import IndexSettings
    from hemolens.inference.hematology import HematologyOutputs

    measured = dict(config["hematology"])
    instrument = {name: measured.pop(name) for name in ("condenser_na", "objective_na", "workers")}
    manifest = measured.pop("manifest")
    files = list_samples(source, Path(manifest) if manifest else None)
    more = HematologyOutputs(
        files,
        predictor.class_names,
        IndexSettings(**measured),
        volume=config["volume"],
        **instrument,
    )
    return files, more
