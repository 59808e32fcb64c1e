"""The files that a detector can look at: images, and tomograms by the projection that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemolens.data.planes import planes_of
from hemolens.data.views import TomogramView
from hemolens.errors import UserError
from hemolens.io.images import IMAGE_SUFFIXES, is_image, list_images, read_image
from hemolens.io.volumes import VOLUME_SUFFIXES, is_volume, open_volume


def list_pictures(folder: str | Path, projection: str | None) -> list[Path]:
    """Files directly inside ``folder``, sorted by name: images, and volumes where there is a projection.

    Raises:
        UserError: no such folder, or nothing of that kind in it.
    """
    if projection is None:
        return list_images(folder)
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a folder that holds tomograms or images")
    files = [p for p in folder.iterdir() if not p.name.startswith(".") and (is_volume(p) or is_image(p))]
    if not files:
        suffixes = ", ".join(dict.fromkeys((*VOLUME_SUFFIXES, *IMAGE_SUFFIXES)))
        raise UserError(f"{folder} holds no tomogram and no image: expected files ending in {suffixes}")
    return sorted(files)


def read_picture(path: str | Path, view: TomogramView | None, volume: Mapping[str, Any] | None = None) -> NDArray[Any]:
    """What a detector sees of a file.

    Args:
        path: an image; or, with a view, a volume (a TIFF counts as one if it holds a stack).
        view: what is seen of a volume; None for detectors that were trained on images.
        volume: what volumes do not state: keys of ``io.open_volume``.

    Returns:
        [H, W] or [H, W, 3], see ``io.images.read_image``; of a volume float32 in [0, 1].

    Raises:
        UserError: the file cannot be read, is a volume and the detector was trained on images, or is an image and the
            detector needs what only a volume holds.
    """
    path = Path(path)
    if not _holds_volume(path):
        if view is not None and (view.norm != "minmax_projection" or len(view.channels) > 1):
            raise UserError(
                f"{path} is an image, but the detector was trained on tomograms with projection={view.projection} "
                f"norm={view.norm}: give the tomogram"
            )
        return read_image(path)
    if view is None:
        raise UserError(f"{path} is a tomogram, but the detector was trained on images: give a picture of it")
    given = {name: value for name, value in (volume or {}).items() if value is not None}
    with open_volume(path, **given) as opened:
        seen = view.see(planes_of(opened))
    return np.ascontiguousarray(seen.transpose(1, 2, 0)) if len(seen) > 1 else seen[0]


def _holds_volume(path: Path) -> bool:
    if not is_volume(path):
        return False
    if not is_image(path):
        return True
    from hemolens.io.volumes.tiff import is_stack

    return is_stack(path)
