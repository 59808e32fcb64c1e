"""Detection on a lab's own tomograms: a folder of volumes with boxes and a manifest."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import track

from hemolens.data.annotations import read_annotations
from hemolens.data.detection import DetectionRecord, make_records
from hemolens.data.modules.projections import ProjectionDataModule
from hemolens.data.planes import PLANES, planes_of, planes_to_arrays
from hemolens.data.simulation.truth import save_arrays
from hemolens.data.splits import SPLITS, empty_part, split_into_parts
from hemolens.data.views import ProjectionRecord
from hemolens.errors import UserError
from hemolens.io.manifest import read_manifest
from hemolens.io.volumes import is_volume, open_volume

log = logging.getLogger(__name__)

_NAMED_ERRORS = 5  # files whose errors a message gives in full; the rest are counted


class TomogramDataModule(ProjectionDataModule):
    """Train, validation and test loaders over tomogram files.

    Each volume is read once: pictures for every projection and norm are kept in ``cache_dir`` under a hash of its
    name, size and time of change and of what the file does not state.

    Args:
        root: folder that all files are relative to, e.g. what ``hemolens simulate`` wrote.
        cache_dir: where projections are kept.
        class_names: the classes in label order, found by name, whatever its case.
        annotations: COCO JSON, GeoJSON, or a folder of GeoJSON files, of volumes or of pictures of them with the same
            name, in ``root`` or else where it says; boxes are drawn on a projection, in pixels of a slice. See
            ``data.annotations.read_annotations``.
        manifest: CSV with the columns ``file`` and ``sample``, and ``split`` (train, val, test) where the split is
            given; None takes every volume as a sample of its own.
        split: shares of the samples for training, validation and test, where the manifest gives none; 0 leaves a part
            empty.
        split_seed: of that drawing.
        volume: what files do not state: keys of ``io.open_volume`` (voxel_um, medium_index, wavelength_um, ri_scale,
            dataset).
        unknown_labels: "error" or "drop" for classes that are not in ``class_names``.
        options: see :class:`hemolens.data.modules.projections.ProjectionDataModule`.

    Raises:
        UserError: bad arguments here; missing or unreadable files, all named at once, when they are read.
    """

    limits = ("Tested on tomograms of the same source as the training data; other instruments were not tried.",)

    def __init__(
        self,
        *,
        root: str | Path,
        cache_dir: str | Path,
        class_names: Sequence[str],
        annotations: str = "annotations.json",
        manifest: str | None = "manifest.csv",
        split: Sequence[float] = (0.7, 0.2, 0.1),
        split_seed: int = 0,
        volume: Annotated[Mapping[str, Any] | None, open_volume] = None,
        unknown_labels: str = "error",
        **options: Any,
    ) -> None:
        super().__init__(class_names=class_names, **options)
        if len(split) != len(SPLITS):
            raise UserError(f"split={list(split)}: give three shares, for {', '.join(SPLITS)}")
        self.root, self.cache_dir = Path(root).expanduser(), Path(cache_dir).expanduser()
        self.annotations, self.manifest = annotations, manifest
        self.split, self.split_seed = tuple(split), split_seed
        self.unknown_labels = unknown_labels
        self.volume = {name: value for name, value in (volume or {}).items() if value is not None}

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: training windows of at most ``image_px``; tests see whole fields."""
        batch = min(batch_size, config["batch_size"])
        window = [min(image_px, side) for side in config.get("train_crop_px") or (image_px, image_px)]
        return config | {"train_crop_px": window, "batch_size": batch, "num_workers": num_workers}

    def setup(self, stage: str) -> None:
        """Find the projections and log a line a split; what ``stage`` needs must not be empty.

        Raises:
            UserError: see the class; or no annotated tomogram is in a part that is needed.
        """
        super().setup(stage)
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            if not self._records[name]:
                by = "" if self.manifest is None else "; data.manifest=null splits by tomogram, not by sample"
                raise UserError(f"{empty_part(self.annotations, name)}{by}")

    def describe(self, split: str) -> str:
        """One line about a split; reads the volumes where that has not been done."""
        self.prepare_data()
        counts = Counter(label for record in self._records[split] for label in record.labels.tolist())
        listed = ", ".join(f"{counts[label]} {name}" for label, name in enumerate(self.class_names))
        return f"{len(self._records[split])} tomograms, {counts.total()} boxes: {listed}"

    def _make(self) -> dict[str, list[ProjectionRecord]]:
        place = self.root / self.annotations
        place = place if place.exists() or not Path(self.annotations).exists() else Path(self.annotations)
        listed = None if self.manifest is None else read_manifest(self.root / self.manifest)
        annotated = read_annotations(place, self.root, accept=is_volume, size_of=self._slice_size, files=listed)
        records = make_records(annotated, self.class_names, self.unknown_labels, str(place))
        if not records:
            raise UserError(f"{place} lists no volumes")
        parts = self._parts([_relative(record.image_path, self.root) for record in records], listed)
        paths = self._projections(records)
        made: dict[str, list[ProjectionRecord]] = {split: [] for split in SPLITS}
        for record, part, path in zip(records, parts, paths, strict=True):
            made[part].append(ProjectionRecord(record.image_id, path, record.boxes, record.labels))
        return made

    def _parts(self, files: Sequence[str], listed: dict[str, dict[str, str]] | None) -> list[str]:
        """The split of each file, by the manifest's rows where there is one."""
        rows = {file: {"sample": file} for file in files}
        if listed is not None:
            path, rows = self.root / str(self.manifest), listed
            missing = [file for file in files if file not in rows]
            if missing:
                raise UserError(
                    f"{path} has no row for {missing[0]} ({len(missing)} files in all): add them, or set manifest=null"
                )
            parts = [rows[file].get("split") or "" for file in files]
            unknown = sorted(set(parts) - {*SPLITS, ""})
            if unknown:
                raise UserError(f"{path}: split {unknown[0]!r} is none of {', '.join(SPLITS)}")
            if any(parts) and not all(parts):
                raise UserError(f"{path}: {files[parts.index('')]} has no split, but others have: fill in all or none")
            first = dict(zip((rows[file]["sample"] for file in files), parts, strict=True))
            torn = [rows[file]["sample"] for file, part in zip(files, parts, strict=True)]
            torn = [sample for sample, part in zip(torn, parts, strict=True) if first[sample] != part]
            if torn:
                raise UserError(f"{path}: sample {torn[0]} lies in two splits: its volumes are not independent")
            if any(parts):
                return parts
        groups = split_into_parts([rows[file]["sample"] for file in files], self.split, seed=self.split_seed)
        part_of = {index: split for split, members in groups.items() for index in members}
        return [part_of[index] for index in range(len(files))]

    def _projections(self, records: Sequence[DetectionRecord]) -> list[Path]:
        """The cached projection of each volume, made where it is missing; all errors are gathered."""
        paths = [self._cached(record.image_path) for record in records]
        missing = [(record, path) for record, path in zip(records, paths, strict=True) if not path.is_file()]
        errors = []
        console = Console(stderr=True)
        quiet = not (console.is_terminal or console.is_jupyter)
        if missing:
            log.info("projecting %d of %d tomograms into %s", len(missing), len(records), self.cache_dir)
        for record, path in track(missing, "projecting tomograms", console=console, transient=True, disable=quiet):
            try:
                self._project(record, path)
            except UserError as error:
                log.error("%s", error)
                errors.append(str(error))
        if errors:
            named = "; ".join(errors[:_NAMED_ERRORS])
            more = f"; and {len(errors) - _NAMED_ERRORS} more, named above" if len(errors) > _NAMED_ERRORS else ""
            raise UserError(
                f"{len(errors)} of {len(records)} tomograms cannot be used: {named}{more}. Repair them or take them "
                f"out of {self.annotations}; the other projections are kept",
                exit_code=1,
            )
        return paths

    def _slice_size(self, path: Path) -> tuple[int, int]:
        with open_volume(path, **self.volume) as volume:
            return volume.shape[1], volume.shape[2]

    def _project(self, record: DetectionRecord, path: Path) -> None:
        with open_volume(record.image_path, **self.volume) as volume:
            if volume.shape[1:] != record.size:
                height, width = record.size
                raise UserError(
                    f"{record.image_path} has slices of {volume.shape[2]}x{volume.shape[1]} pixels, but the boxes were "
                    f"drawn on {width}x{height}"
                )
            planes = planes_of(volume)
        save_arrays(path, planes_to_arrays(planes))

    def _cached(self, path: Path) -> Path:
        parts = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
        states = [(item.stat().st_size, item.stat().st_mtime_ns) for item in parts]
        facts = (str(path.resolve()), states, PLANES, self.volume)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
        return self.cache_dir / "projections" / f"{digest}.npz"


def _relative(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        raise UserError(f"{path} does not lie in {root}: file names are relative to data.root")
    return path.relative_to(root).as_posix()
