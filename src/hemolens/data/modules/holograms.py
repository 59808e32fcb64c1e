"""Segmentation on a lab's own phase images: a folder with masks and a manifest."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.phase_folder import PHASE_FOLDER, find_pairs, store_pairs
from hemolens.data.phase_images import PhaseRecord
from hemolens.data.splits import SPLITS
from hemolens.errors import UserError
from hemolens.io.manifest import read_manifest

log = logging.getLogger(__name__)


class HologramDataModule(PhaseImageDataModule):
    """Loaders over a folder of phase images and masks.

    The folder is what ``hemolens simulate data=sim_holograms`` writes (its true phase, or with ``phase_folder`` what
    ``hemolens reconstruct`` made of its holograms), or a lab's: ``phase/<name>.ome.tif`` (floats in rad),
    ``classes/<name>.ome.tif`` or ``.png`` (0 background, 1, 2, … the types) and, where there are any,
    ``instances/<name>.ome.tif`` (else the connected parts of a class are its cells).

    Args:
        root: the folder.
        class_names: see the base class.
        phase_folder: of the phase images, relative to ``root``, or a path of its own.
        manifest: CSV with the columns file and sample, and donor, day and split (train, val, test) where they are
            known; None takes all images and knows nothing of them.
        pixel_um, wavelength_um: what the files do not state.
        options: see :class:`hemolens.data.modules.phase_images.PhaseImageDataModule`.

    Raises:
        UserError: bad arguments here; missing or unreadable files, all named at once, when they are read.
    """

    limits = ("Tested on images of the same microscope as the training images; other instruments were not tried.",)

    def __init__(
        self,
        *,
        root: str | Path,
        class_names: Sequence[str],
        phase_folder: str | Path = PHASE_FOLDER,
        manifest: str | None = "manifest.csv",
        pixel_um: float | None = None,
        wavelength_um: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(class_names=class_names, **options)
        self.root = Path(root).expanduser()
        self.phase_folder, self.manifest = Path(phase_folder).expanduser(), manifest
        self._set_scale(pixel_um, wavelength_um)

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: smaller patches (but where they are binned) and batches; validation
        sees whole images."""
        limit = image_px if config.get("binning", 1) == 1 else config["patch_px"]
        small = {"patch_px": min(limit, config["patch_px"]), "batch_size": min(batch_size, config["batch_size"])}
        return config | small | {"patches_per_image": 1, "num_workers": num_workers}

    def _make(self) -> dict[str, list[PhaseRecord]]:
        if not self.root.is_dir():
            raise UserError(f"no folder at data.root={self.root}")
        rows = None if self.manifest is None else read_manifest(self.root / self.manifest)
        beside = self.root / self.phase_folder
        pairs, bare = find_pairs(self.root, beside if beside.is_dir() else self.phase_folder, rows)
        if not pairs:
            raise UserError(
                f"{self.root / 'classes'} holds no mask of any of the {len(bare)} phase images; a mask is named as its "
                "image is"
            )
        if bare:
            log.warning(
                "%d of %d phase images have no mask and are left out, %s first",
                len(bare),
                len(bare) + len(pairs),
                bare[0],
            )
        records, scale = store_pairs(pairs, self.cache_dir, self.class_names)
        pixel_um, wavelength_um = self.acquired_pixel_um, self.spec.wavelength_um
        self._set_scale(
            scale.pixel_um if pixel_um is None else pixel_um,
            scale.wavelength_um if wavelength_um is None else wavelength_um,
        )
        if self.binning > 1 and self.acquired_pixel_um is None:
            raise UserError(
                f"data.binning={self.binning} changes the pixel size, which no file here states: give data.pixel_um"
            )
        given = [pair.row.get("split") or "" for pair in pairs]
        if not any(given):
            return self._parts(records)
        if wrong := [name for name in given if name not in SPLITS]:
            raise UserError(
                f"{self.root / str(self.manifest)}: split {wrong[0]!r} is none of {', '.join(SPLITS)}; fill in all "
                "rows or none"
            )
        self._refuse_torn(records, given)
        return {name: [record for record, part in zip(records, given, strict=True) if part == name] for name in SPLITS}

    def _refuse_torn(self, records: Sequence[PhaseRecord], parts: Sequence[str]) -> None:
        """With ``split_by`` other than image, a group of the manifest lies in one part."""
        if self.split_by == "image":
            return
        first: dict[Any, str] = {}
        for group, part in zip(self._groups(records), parts, strict=True):
            if first.setdefault(group, part) != part:
                raise UserError(
                    f"{self.split_by} {group} lies in two splits of the manifest: its images are not independent"
                )
