"""Refractive-index volumes in the files of instruments and of other programs."""

from hemolens.io.volumes.files import VOLUME_SUFFIXES, is_volume, open_volume, write_volume
from hemolens.io.volumes.projections import PROJECTIONS, project_volume
from hemolens.io.volumes.volume import RIArray, Volume

__all__ = [
    "PROJECTIONS",
    "VOLUME_SUFFIXES",
    "RIArray",
    "Volume",
    "is_volume",
    "open_volume",
    "project_volume",
    "write_volume",
]
