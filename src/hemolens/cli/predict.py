"""``hemolens predict``: images in; what was found in them out, or the class of each picture."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError
from hemolens.io.volumes import is_volume

if TYPE_CHECKING:
    from hemolens.inference.load import ClassificationPredictor, DetectionPredictor, SegmentationPredictor
    from hemolens.inference.outputs import MoreOutputs
    from hemolens.inference.samples import SampleFile
    from hemolens.inference.storage import StorageOutputs

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("predict", arguments, predict)


def predict(cfg: DictConfig) -> None:
    """Find cells in every file of ``cfg.input`` and write the results into a new folder.

    Files that cannot be read or measured are named and left out; the others are done, and the exit code is 1.
    """
    from rich.progress import track

    from hemolens.cli.run_guard import git_state, resolved
    from hemolens.inference.load import ClassificationPredictor, SegmentationPredictor, load
    from hemolens.inference.outputs import DetectedImage, check_output_folder, write_detection_outputs
    from hemolens.inference.ranking import image_uncertainty
    from hemolens.io.detections import ImageDetections

    config = resolved(cfg)
    source = Path(cfg.input)
    if not source.exists():
        raise UserError(f"no image, tomogram or folder at input={source}")
    changes: dict[str, Any] = {key: cfg[key] for key in ("nms_iou", "max_detections") if cfg[key] is not None}
    if not 0 <= cfg.tile_overlap_px < cfg.tile_px:
        raise UserError(f"tile_overlap_px={cfg.tile_overlap_px}: must be at least 0 and below tile_px={cfg.tile_px}")
    predictor = load(cfg.ckpt_path, device=cfg.device, precision=cfg.precision, **changes)
    if isinstance(predictor, ClassificationPredictor):
        return _classify(cfg, config, source, predictor)
    if isinstance(predictor, SegmentationPredictor):
        return _segment(cfg, config, source, predictor)
    settings = predictor.task.decode_settings
    settings["score_threshold"] = min(settings["score_threshold"], cfg.score_threshold)
    if cfg.to_correct < 0:
        raise UserError(f"to_correct={cfg.to_correct}: give the number of images to correct, 0 for none")
    output = _output(cfg)
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
                found = predictor.predict(image, tile_px=cfg.tile_px, tile_overlap_px=cfg.tile_overlap_px)
            except UserError as error:
                leave_out(error)
                continue
            height, width = image.shape[:2]
            nms_iou = settings["nms_iou"]
            wavers = image_uncertainty(
                found, predictor.class_names, score_threshold=cfg.score_threshold, nms_iou=nms_iou
            )
            found.pop("probabilities")
            kept = found["scores"] >= cfg.score_threshold  # the network's own cut is on the class score alone
            found = {key: values[kept] for key, values in found.items()}
            cells = ImageDetections(file_name=file.name, height=height, width=width, **found)
            yield DetectedImage(cells, image, wavers)
        _refuse_nothing(skipped, len(files), source)

    info = {
        "checkpoint": str(cfg.ckpt_path),
        "input": str(source),
        "pipeline": cfg.pipeline or "detection",
        **({"hematology": config["hematology"]} if cfg.pipeline == "hematology" else {}),
        "commit": git_state()["commit"],
        "score_threshold": cfg.score_threshold,
        "decode": settings,
    }
    results = write_detection_outputs(
        output,
        detected(),
        predictor.class_names,
        info=info,
        overlays=cfg.overlays,
        to_correct=cfg.to_correct,
        more=more,
        leave_out=leave_out,
    )
    print(f"{sum(map(len, results))} cells in {len(results)} images: {output}")
    _say_skipped(skipped, len(files))


def _output(cfg: DictConfig) -> Path:
    from hemolens.inference.load import DEMO

    if cfg.output:
        return Path(cfg.output)
    if cfg.ckpt_path == DEMO:
        return Path("predictions")
    return Path(cfg.ckpt_path).absolute().parents[1] / "predictions"


def _classify(cfg: DictConfig, config: dict[str, Any], source: Path, predictor: "ClassificationPredictor") -> None:
    """Say of every file what cell it shows."""
    from rich.progress import track

    from hemolens.inference.classification import ClassifiedImage, write_classes
    from hemolens.inference.outputs import check_output_folder

    if cfg.pipeline not in (None, "classification"):
        raise UserError(f"pipeline={cfg.pipeline}: {cfg.ckpt_path} is a classifier of single cells; leave pipeline out")
    output = _output(cfg)
    check_output_folder(output, overwrite=False)
    files = _files(source, predictor)
    skipped: list[UserError] = []

    def classified() -> Iterator[ClassifiedImage]:
        for file in track(files, description="predict"):
            try:
                image = predictor.read(file.path, config["volume"])
                found = predictor.predict(image)
            except UserError as error:
                log.error("left out: %s", error)
                skipped.append(error)
                continue
            yield ClassifiedImage(file.name, image, found["probabilities"])
        _refuse_nothing(skipped, len(files), source)

    counts = write_classes(output, classified(), predictor.class_names, pictures=cfg.overlays)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{sum(counts.values())} pictures ({listed}): {output}")
    _say_skipped(skipped, len(files))


def _segment(cfg: DictConfig, config: dict[str, Any], source: Path, predictor: "SegmentationPredictor") -> None:
    """Find the cells of every phase image, or of every hologram, which is reconstructed first."""
    from rich.progress import track

    from hemolens.cli.run_guard import git_state
    from hemolens.inference.outputs import check_output_folder
    from hemolens.inference.phase_inputs import list_inputs, read_input
    from hemolens.inference.segmentation_outputs import SegmentedField, write_segmentations
    from hemolens.inference.storage_quality import REPORTS_FOLDER
    from hemolens.postprocess.windows import check_way

    if cfg.pipeline not in (None, "segmentation", "storage"):
        raise UserError(
            f"pipeline={cfg.pipeline}: {cfg.ckpt_path} is a segmentation; leave pipeline out, or choose storage"
        )
    output = _output(cfg)
    check_output_folder(output, overwrite=False)
    how, microscope = dict(config["segmentation"]), dict(config["hologram"])
    alpha, reference = how.pop("alpha_um3_pg"), microscope.pop("reference")
    commit = git_state()["commit"]
    more = _stored_blood(cfg, config["quality"], commit, source, predictor) if cfg.pipeline == "storage" else None
    check_way(predictor.task.net.stride, **how)
    inputs = list_inputs(
        source,
        reference=Path(reference) if reference else None,
        manifest=microscope.pop("manifest"),
        output=output,
    )
    if more is not None:
        more.check([item.path for item in inputs])
    skipped: list[UserError] = []
    base = source if source.is_dir() else source.parent

    def segmented() -> Iterator[SegmentedField]:
        for item in track(inputs, description="predict"):
            try:
                image, quality = read_input(item, microscope, device=str(predictor.task.device))
                maps = predictor.predict(image, cell_scores=more is not None, **how)
            except UserError as error:
                reason = str(error).removeprefix(f"{item.path}: ")
                named = error if str(item.path) in str(error) else UserError(f"{item.path}: {error}")
                if len(inputs) > 1:  # of a single file the last line says it
                    log.error("left out: %s", named)
                skipped.append(named)
                if more is not None:
                    more.leave_out(item.path, reason)
                continue
            file = Path(os.path.relpath(item.path, base)).as_posix()
            yield SegmentedField(item.name, file, image, maps, made=item.job is not None, quality=quality)
        _refuse_nothing(skipped, len(inputs), source)

    info = {
        "checkpoint": str(cfg.ckpt_path),
        "input": str(source),
        "pipeline": cfg.pipeline or "segmentation",
        "commit": commit,
        "segmentation": config["segmentation"],
        "hologram": config["hologram"],
        "training_scale": predictor.input_spec.to_dict(),
        "cells": predictor.task.cell_settings,
    }
    counts = write_segmentations(
        output, segmented(), predictor.class_names, info=info, alpha_um3_pg=alpha, overlays=cfg.overlays, more=more
    )
    totals = {name: sum(found[name] for found in counts) for name in predictor.class_names[1:]}
    listed = ", ".join(f"{count} {name}" for name, count in totals.items())
    print(f"{sum(totals.values())} cells ({listed}) in {len(counts)} images: {output}")
    if more is not None:
        print(f"{more.flagged_images} of {len(counts)} images flagged; a page for each bag: {output / REPORTS_FOLDER}")
    _say_skipped(skipped, len(inputs))


def _stored_blood(
    cfg: DictConfig, limits: dict[str, Any], commit: str | None, source: Path, predictor: "SegmentationPredictor"
) -> "StorageOutputs":
    from datetime import date

    from hemolens.analysis.image_quality import QualityLimits
    from hemolens.inference.load import checkpoint_file
    from hemolens.inference.storage import StorageOutputs
    from hemolens.inference.storage_quality import StorageQuality
    from hemolens.inference.type_calibration import CALIBRATION_JSON, read_temperature

    predictor.task.cell_settings["across_types"] = bool(cfg.storage.across_types)
    manifest, calibration = cfg.hologram.manifest, cfg.storage.calibration
    if manifest is not None and str(manifest).lower() == "none":
        raise UserError("pipeline=storage wants a manifest with the bag and day of each image: hologram.manifest=none")
    beside = checkpoint_file(cfg.ckpt_path).parent / CALIBRATION_JSON
    if calibration is None and beside.is_file():
        calibration = beside
    if calibration is None:
        log.info("type_probability is not calibrated: hemolens eval ckpt_path=%s calibrate=true does it", cfg.ckpt_path)
    temperature = 1.0 if calibration is None else read_temperature(Path(calibration))
    about = {
        "checkpoint": str(cfg.ckpt_path),
        "commit": (commit or "unknown")[:10],
        "written": date.today().isoformat(),
        "temperature": "not calibrated" if calibration is None else f"{temperature:g}",
        "least probability": f"{cfg.storage.least_probability:g}",
    }
    return StorageOutputs(
        source,
        predictor.class_names,
        manifest=None if manifest is None else Path(manifest),
        truth=None if cfg.storage.truth is None else Path(cfg.storage.truth),
        temperature=temperature,
        least_probability=cfg.storage.least_probability,
        quality=StorageQuality(
            predictor.class_names,
            QualityLimits(**limits | {"dry_mass_pg": tuple(limits["dry_mass_pg"])}),
            predictor.input_spec.phase_limits_rad,
            about,
        ),
    )


def _refuse_nothing(skipped: list[UserError], count: int, source: Path) -> None:
    """Raise where no file at all could be read."""
    if len(skipped) < count:
        return
    if count == 1:
        raise skipped[0]
    raise UserError(f"none of the {count} files in {source} can be read; the first: {skipped[0]}", exit_code=1)


def _say_skipped(skipped: list[UserError], count: int) -> None:
    if skipped:
        raise UserError(f"{len(skipped)} of {count} files were left out; the first: {skipped[0]}", exit_code=1)


def _files(source: Path, predictor: "DetectionPredictor | ClassificationPredictor") -> list["SampleFile"]:
    """The file, or the files of the folder, named relative to it."""
    from hemolens.inference.pictures import list_pictures
    from hemolens.inference.samples import SampleFile

    single = source.is_file() or is_volume(source)  # a Zarr volume is a folder
    paths = [source] if single else list_pictures(source, predictor.input_spec.projection)
    base = source.parent if single else source
    return [SampleFile(path, path.relative_to(base).as_posix(), "") for path in paths]


def _pipeline(
    cfg: DictConfig, config: dict[str, Any], source: Path, predictor: "DetectionPredictor"
) -> tuple[list["SampleFile"], list["MoreOutputs"]]:
    """The files to look at, and what is measured in them beside the detections."""
    from hemolens.inference.samples import list_samples

    if cfg.pipeline in (None, "detection"):
        return _files(source, predictor), []
    if cfg.pipeline != "hematology":
        raise UserError(f"pipeline={cfg.pipeline}: choose detection or hematology")
    if predictor.input_spec.projection is None:
        raise UserError("pipeline=hematology measures tomograms, but this detector was trained on images")
    from hemolens.analysis.indices import IndexSettings
    from hemolens.analysis.samples import RED_CLASSES
    from hemolens.inference.features import FeatureOutputs, has_class_features
    from hemolens.inference.hematology import HematologyOutputs

    measured = dict(config["hematology"])
    instrument = {name: measured.pop(name) for name in ("condenser_na", "objective_na", "workers")}
    manifest, features = measured.pop("manifest"), measured.pop("features")
    if features < 0:
        raise UserError(f"hematology.features={features}: give a number of cells, 0 for none")
    files = list_samples(source, Path(manifest) if manifest else None)
    more: list[MoreOutputs] = [
        HematologyOutputs(
            files,
            predictor.class_names,
            IndexSettings(**measured),
            volume=config["volume"],
            **instrument,
        )
    ]
    if features and not has_class_features(predictor.task.net):
        log.warning("this network has no class tower: no features for the report's embedding")
    elif features:
        tiles = {"tile_px": cfg.tile_px, "tile_overlap_px": cfg.tile_overlap_px}
        more.append(FeatureOutputs(predictor, len(files), RED_CLASSES["RBC+ARBC"], features, **tiles))
    return files, more
