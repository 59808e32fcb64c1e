"""Pairs of phase image and mask made by two diffusion GANs, one file each, with where they come from."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.binning import binned_classes
from hemolens.data.phase_folder import (
    CLASSES_FOLDER,
    MASK_SUFFIXES,
    PHASE_FOLDER,
    PROVENANCE,
    SCALE_TOLERANCE,
    read_mask,
    stem_of,
)
from hemolens.data.segmentation import PhaseSpec
from hemolens.data.simulation.claim import claim_folder
from hemolens.diffusion.schedule import generators
from hemolens.errors import UserError
from hemolens.inference.load import build_task, read_checkpoint
from hemolens.inference.pair_selection import PAIRS_CSV, pair_file
from hemolens.io.labels import labels_pixel_um, write_labels
from hemolens.io.phase import PhaseImage, write_phase
from hemolens.io.tables import write_csv
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask, mask_logits

LEAST_CELL_UM2, APART_UM = 0.6, 1.7  # of cells of given masks, as configs/model/segmentation.yaml
COLUMNS = ("name", "index", "seed", "confidence")
JOURNAL, SETTINGS = ".pairs.journal.csv", PROVENANCE
_BLOCK = 1 << 20


class PairSampler:
    """A phase generator and what gives its images their masks.

    Args:
        phase_checkpoint: of a PhaseDDGANTask.
        mask_checkpoint: of a MaskDDGANTask; None where the phase is made of masks.
        masks: folder of masks that the phase is made of, each in turn, turned and mirrored; None where the mask is made
            of the phase.
        device: to compute on.

    Raises:
        UserError: checkpoints of other tasks, or two that do not fit together.
    """

    def __init__(
        self,
        phase_checkpoint: str | Path,
        mask_checkpoint: str | Path | None,
        *,
        masks: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        files = [Path(phase_checkpoint), *([] if mask_checkpoint is None else [Path(mask_checkpoint)])]
        self.phase, self.spec, self.class_names, seen = _loaded(files[0], PhaseDDGANTask, "phase_ckpt", device)
        self.of_mask = self.phase.condition == "mask"
        if self.of_mask != (mask_checkpoint is None) or self.of_mask != (masks is not None):
            raise UserError(
                f"{phase_checkpoint} makes a phase of a mask: give masks=<folder with masks>, and leave mask_ckpt out"
                if self.of_mask
                else f"{phase_checkpoint} makes phase from noise: give mask_ckpt=…, and leave masks out"
            )
        self.mask: Any = None
        if mask_checkpoint is not None:
            self.mask, spec, names, more = _loaded(files[1], MaskDDGANTask, "mask_ckpt", device)
            seen |= more
            if (spec, names) != (self.spec, self.class_names):
                raise UserError(
                    f"{phase_checkpoint} and {mask_checkpoint} were trained on unlike data ({self.spec} and {spec}, "
                    f"classes {', '.join(self.class_names)} and {', '.join(names)}): train both on the same"
                )
        self.train_images = sorted(seen)
        self.side: int = self.phase.net.image_px
        self.given = [] if masks is None else self._masks_in(Path(masks))
        self.device = device
        hashed = hashlib.sha256(b"".join(mask.tobytes() for mask in self.given)).hexdigest()[:16]
        self.facts = {"checkpoints": [_digest(path) for path in files], "masks": hashed if self.given else None}
        pixel = self.spec.pixel_um or 1.0
        by_size = {"min_area_px": max(1, round(LEAST_CELL_UM2 / pixel**2)), "min_distance_px": round(APART_UM / pixel)}
        self.cells: dict[str, Any] = by_size if self.mask is None else self.mask.cell_settings

    def _masks_in(self, folder: Path) -> list[NDArray[Any]]:
        """Squares, edge to edge, of the masks of a folder, binned to the generator's pixels; those without a cell are
        left out."""
        side, found = self.side, []
        for path in sorted(path for path in folder.rglob("*") if stem_of(path, MASK_SUFFIXES) is not None):
            mask = read_mask(path)
            if int(mask.max(initial=0)) >= len(self.class_names):
                raise UserError(f"{path} holds class {int(mask.max())}; the generator knows {len(self.class_names)}")
            factor = self._binning_of(path)
            mask = binned_classes(torch.from_numpy(mask.astype(np.int64)), factor).numpy()
            for y in range(0, mask.shape[0] - side + 1, side):
                found += [mask[y : y + side, x : x + side] for x in range(0, mask.shape[1] - side + 1, side)]
        found = [mask for mask in found if mask.any()]
        if not found:
            raise UserError(
                f"masks={folder} holds no mask of {side}x{side} px or more with a cell, in the generator's pixels"
            )
        return found

    def _binning_of(self, path: Path) -> int:
        """Pixels of a mask along one of the generator's."""
        pixel = None if path.suffix.lower() == ".png" else labels_pixel_um(path)
        if pixel is None or self.spec.pixel_um is None:
            raise UserError(
                f"{path} or the generator does not say its pixel size: masks are OME-TIFF, as hemolens simulate and "
                "predict write them"
            )
        ratio = self.spec.pixel_um / pixel
        factor = max(1, round(ratio))
        if abs(ratio / factor - 1) > SCALE_TOLERANCE:
            raise UserError(
                f"{path} has pixels of {pixel:g} um, the generator of {self.spec.pixel_um:g} um, which is no multiple: "
                "resample the masks"
            )
        return factor

    @torch.no_grad()
    def sample(self, seed: int, indices: Sequence[int]) -> Iterator[tuple[NDArray[Any], NDArray[Any], float]]:
        """Phase float32 [P, P] in rad, classes uint8 [P, P] and confidence of each index.

        A pair depends on the seed and its index alone: in float32 to 1e-3 rad, whatever is made beside it.
        """
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or GPUs would round to ten bits
            made = self._made(seed, indices)
        for image, mask, sure in zip(*made, strict=True):
            yield image.cpu().numpy(), mask.to(torch.uint8).cpu().numpy(), float(sure)

    def _made(self, seed: int, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Phases in rad, classes and confidences."""
        rng = generators(seed, indices)
        size = (self.side, self.side)
        if self.of_mask:
            classes = torch.stack([self._turned(seed, index) for index in indices]).to(self.device)
            phase = self.phase.sampled(rng, size, self.phase.masks_of(classes))
            confidence = torch.ones(len(indices))
        else:
            phase = self.phase.sampled(rng, size)
            shares = mask_logits(self.mask.sampled(rng, size, phase)).softmax(1)
            probability, classes = shares.max(1)
            cells = classes > 0
            confidence = (probability * cells).sum((1, 2)) / cells.sum((1, 2)).clamp(min=1)
        return self.spec.in_rad(phase[:, 0]), classes, confidence

    def _turned(self, seed: int, index: int) -> Tensor:
        """Mask of an index: each of the folder in turn, in one of eight orientations."""
        way = int(np.random.default_rng([seed, index]).integers(8))
        mask = torch.from_numpy(np.rot90(self.given[index % len(self.given)], way % 4).astype(np.int64))
        return mask.flip(1) if way >= 4 else mask


def sample_pairs(sampler: PairSampler, output: Path, *, n: int, seed: int = 0, batch_size: int = 16) -> int:
    """Write ``phase/pair_<index>.ome.tif``, ``classes/pair_<index>.ome.tif`` and ``pairs.csv``.

    Begun folders are gone on with; a larger ``n`` adds pairs.

    Args:
        sampler: what makes them.
        output: a new folder, or one begun with the same checkpoints and seed.
        n: pairs in all.
        seed: of the noise.
        batch_size: pairs made at once.

    Returns:
        How many were made now.

    Raises:
        UserError: numbers below 1, or a folder begun otherwise.
    """
    if n < 1 or batch_size < 1 or seed < 0:
        raise UserError(f"n={n}, batch_size={batch_size}, seed={seed}: at least 1, 1 and 0")
    facts = {"seed": seed, **sampler.facts}
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    about: dict[str, Any] = {"class_names": list(sampler.class_names), "cells": sampler.cells}
    about["train_images"] = sampler.train_images
    claim_folder(output, {"fingerprint": fingerprint, "format": "ome.tif", **facts, **about}, name=SETTINGS)
    done = {index: row for index, row in _journal(output).items() if _whole(output, row["name"])}
    missing = [index for index in range(n) if index not in done]
    batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    with (output / JOURNAL).open("a", newline="", encoding="utf-8") as journal:
        rows = csv.DictWriter(journal, COLUMNS, lineterminator="\n")
        if not journal.tell():
            rows.writeheader()
        for batch in track(batches, description="sample"):
            for index, (phase, classes, sure) in zip(batch, sampler.sample(seed, batch), strict=True):
                name = f"pair_{index:06d}"
                image = PhaseImage(phase, pixel_um=sampler.spec.pixel_um, wavelength_um=sampler.spec.wavelength_um)
                write_phase(pair_file(output, PHASE_FOLDER, name), image, overwrite=True)
                write_labels(
                    pair_file(output, CLASSES_FOLDER, name), classes, pixel_um=sampler.spec.pixel_um, overwrite=True
                )
                done[index] = {"name": name, "index": index, "seed": seed, "confidence": round(sure, 4)}
                rows.writerow(done[index])
            journal.flush()
    table = ([done[index][column] for column in COLUMNS] for index in range(n))
    write_csv(output / PAIRS_CSV, COLUMNS, table, overwrite=True)
    return len(missing)


def sampled_facts(folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names, and the settings of ``postprocess.instances.cells_of_classes``, of a folder of sampled pairs.

    Raises:
        UserError: nothing was sampled there.
    """
    try:
        found = json.loads((folder / SETTINGS).read_text())
        return tuple(found["class_names"]), dict(found["cells"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no sampled pairs: add the stage sample, or check output") from error


def _whole(output: Path, name: str) -> bool:
    return all(pair_file(output, folder, name).is_file() for folder in (PHASE_FOLDER, CLASSES_FOLDER))


def _journal(output: Path) -> dict[int, dict[str, Any]]:
    """Rows of an interrupted or finished sampling; a line that was cut off is left out."""
    path = output / JOURNAL
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # what comes next starts on a line of its own
        path.write_text(whole, encoding="utf-8")
    return {int(row["index"]): dict(row) for row in csv.DictReader(whole.splitlines())}


def _loaded(path: Path, kind: type, key: str, device: str) -> tuple[Any, PhaseSpec, tuple[str, ...], set[str]]:
    """The task, what it takes, its classes, and the names of the images that it was trained on."""
    content = read_checkpoint(path)
    stored = content[KEY]
    if stored["task"] != kind.__name__:
        wanted = "model=ddgan_phase" if kind is PhaseDDGANTask else "model=ddgan_mask"
        raise UserError(f"{key}={path} holds a {stored['task']}: give a checkpoint of a run with {wanted}")
    task = build_task(content, source=path).to(device)
    seen = set(stored.get("train_images", []))
    return task, PhaseSpec.from_dict(stored["input"]), tuple(stored["class_names"]), seen


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
    return hashed.hexdigest()[:16]
