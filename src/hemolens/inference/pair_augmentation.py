"""Turned and mirrored copies of chosen phase-mask pairs: a folder of synthetic images that training can read."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from hemolens.data.phase_folder import CLASSES_FOLDER, PHASE_FOLDER, PROVENANCE
from hemolens.data.sampling import seed_sequence
from hemolens.data.simulation.claim import claim_folder
from hemolens.errors import UserError
from hemolens.inference.pair_selection import pair_file
from hemolens.io.atomic import atomic_path
from hemolens.io.labels import read_labels, write_labels
from hemolens.io.phase import read_phase, write_phase
from hemolens.io.tables import write_csv

MANIFEST_CSV, AUGMENTATION_JSON = "manifest.csv", "augmentation.json"
COLUMNS = ("file", "sample", "source", "angle_deg", "flip")
ANGLE_DECIMALS = 3  # of a degree, so that the manifest states what was done
_COPY = re.compile(r".+_r\d{2,}\.ome\.tif")


@dataclass(frozen=True)
class PairCopy:
    """A copy to be made.

    Attributes:
        name: of its files.
        source: name of the pair that it is made of.
        angle_deg: by which it is turned, counterclockwise as it is seen.
        flip: whether left and right are exchanged before it is turned.
    """

    name: str
    source: str
    angle_deg: float
    flip: bool


@dataclass(frozen=True)
class AugmentationReport:
    """Pairs that were made, those that lay there already, and copies of pairs no longer chosen that were removed."""

    made: int
    kept: int
    removed: int


def augment_pairs(
    folder: Path, accepted: Sequence[str], output: Path, *, count: int = 2000, seed: int = 0
) -> AugmentationReport:
    """Copy accepted pairs, turned and mirrored at random, until there are ``count``; a stopped call goes on.

    Each pair comes equally often (the first ones once more where ``count`` is no multiple), first as it is. A copy
    depends on ``seed``, the name of its source and its number among the copies of that, and on nothing else: after
    another choice the copies of the pairs that stay are kept, and those of the others removed.

    - ``phase/<source>_r<number>.ome.tif``, ``classes/...``: with the scale of the source.
    - ``manifest.csv``: file, sample, source, angle_deg, flip (1 where mirrored). The sample is the source, so that a
      split by sample keeps all copies of a pair in one part. It is written last.
    - ``augmentation.json``: the seed.

    Args:
        folder: with ``phase/<name>.ome.tif`` and ``classes/<name>.ome.tif``.
        accepted: names of pairs.
        output: new, or of an earlier call with this seed.
        count: pairs to make, at least one of each accepted one.
        seed: of the angles and mirror images.

    Raises:
        UserError: no pair or one twice, a count or seed that does not fit, files of something else in ``output``, or
            damaged sources.
    """
    plan = plan_copies(accepted, count=count, seed=seed)
    claim_folder(output, {"fingerprint": f"seed {seed}", "format": "ome.tif", "seed": seed}, name=AUGMENTATION_JSON)
    (output / MANIFEST_CSV).unlink(missing_ok=True)  # until all that it lists is there
    removed = _clear(output, {f"{copy.name}.ome.tif" for copy in plan})
    console = Console(stderr=True)
    quiet = not (console.is_terminal or console.is_jupyter)
    made = 0
    for copy in track(plan, "turning pairs", console=console, transient=True, disable=quiet):
        sources, targets = (
            [pair_file(place, kind, name) for kind in (PHASE_FOLDER, CLASSES_FOLDER)]
            for place, name in ((folder, copy.source), (output, copy.name))
        )
        if not _is_newer(targets, sources):
            _make(copy, sources, targets)
            made += 1
    rows = (
        [f"{PHASE_FOLDER}/{copy.name}.ome.tif", copy.source, copy.source, f"{copy.angle_deg:g}", int(copy.flip)]
        for copy in plan
    )
    if (note := folder / PROVENANCE).is_file():  # training refuses what its makers' test images are in
        with atomic_path(output / PROVENANCE, overwrite=True) as temporary:
            temporary.write_bytes(note.read_bytes())
    write_csv(output / MANIFEST_CSV, COLUMNS, rows)
    return AugmentationReport(made=made, kept=len(plan) - made, removed=removed)


def plan_copies(accepted: Sequence[str], *, count: int, seed: int) -> list[PairCopy]:
    """The copies to make, see :func:`augment_pairs`: each pair as it is, then each turned once, and so on.

    Raises:
        UserError: no pair or one twice, fewer copies than pairs, or a negative seed.
    """
    if not accepted:
        raise UserError("no pair is accepted: there is nothing to augment")
    if len(set(accepted)) < len(accepted):
        twice = next(name for name in accepted if accepted.count(name) > 1)
        raise UserError(f"{twice} is accepted twice: name each pair once")
    if count < len(accepted):
        raise UserError(
            f"augment.count={count} leaves out some of the {len(accepted)} accepted pairs: give at least that"
        )
    if seed < 0:
        raise UserError(f"seed={seed}: must not be negative")
    plan = []
    for index in range(count):
        number, place = divmod(index, len(accepted))
        source = accepted[place]
        angle, flip = 0.0, False
        if number:
            rng = np.random.default_rng(seed_sequence(seed, zlib.crc32(source.encode()), number))
            angle, flip = round(float(rng.uniform(0, 360)), ANGLE_DECIMALS), bool(rng.integers(2))
        plan.append(PairCopy(f"{source}_r{number:02d}", source, angle, flip))
    return plan


def turn_pair(
    phase_rad: NDArray[np.floating], classes: NDArray[np.integer], angle_deg: float, *, flip: bool
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """A pair mirrored (left and right exchanged) and then turned about its middle, in the size that it has.

    The phase is interpolated by cubic splines, which keep its noise and fine structure where linear interpolation
    smooths them; the mask takes the nearest pixel. What comes from outside is the mirror image of both.

    Args:
        phase_rad: [H, W].
        classes: of each pixel, [H, W].
        angle_deg: counterclockwise as it is seen, row 0 at the top.
        flip: whether to mirror.

    Returns:
        float32 [H, W] and [H, W] of the type of ``classes``.
    """
    if flip:
        phase_rad, classes = phase_rad[:, ::-1], classes[:, ::-1]
    if angle_deg % 360 == 0:
        return np.array(phase_rad, np.float32), classes.copy()
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of (y, x), y downwards
    middle = (np.array(phase_rad.shape) - 1) / 2
    how = {"matrix": turn, "offset": middle - turn @ middle, "mode": "reflect"}
    turned = ndimage.affine_transform(np.asarray(phase_rad, np.float64), order=3, **how)
    return turned.astype(np.float32), ndimage.affine_transform(classes, order=0, **how)


def _make(copy: PairCopy, sources: Sequence[Path], targets: Sequence[Path]) -> None:
    image, classes = read_phase(sources[0]), read_labels(sources[1])
    if image.phase_rad.shape != classes.shape:
        raise UserError(f"{sources[0]} and {sources[1]} differ in size: sample the pair again")
    if not np.isfinite(image.phase_rad).all():
        raise UserError(f"{sources[0]} holds values that are not finite: set accept of it to 0")
    phase, turned = turn_pair(image.phase_rad, classes, copy.angle_deg, flip=copy.flip)
    write_phase(targets[0], replace(image, phase_rad=phase), overwrite=True)
    write_labels(targets[1], turned, pixel_um=image.pixel_um, overwrite=True)


def _is_newer(targets: Sequence[Path], sources: Sequence[Path]) -> bool:
    """Whether all targets are there, and none is older than a source."""
    if not all(path.is_file() for path in (*targets, *sources)):
        return False
    return min(path.stat().st_mtime_ns for path in targets) >= max(path.stat().st_mtime_ns for path in sources)


def _clear(output: Path, planned: set[str]) -> int:
    """Remove copies that are not planned, since all that lies there is trained on; how many pairs that were.

    Raises:
        UserError: a file that is no copy.
    """
    files = [path for kind in (PHASE_FOLDER, CLASSES_FOLDER) for path in sorted((output / kind).glob("*.tif"))]
    for path in files:
        if path.name.startswith("."):
            path.unlink()  # half a file of a call that was killed
    old = [path for path in files if not path.name.startswith(".") and path.name not in planned]
    if foreign := [path for path in old if not _COPY.fullmatch(path.name)]:
        raise UserError(
            f"{foreign[0]} is none of the copies: move it out of {output}, all that lies there is trained on"
        )
    for path in old:
        path.unlink()
    return len({path.name for path in old})
