"""Readers and writers of real files; volumes open with :func:`open_volume`."""

from hemolens.io.volumes import Volume, open_volume, project_volume, write_volume

__all__ = ["Volume", "open_volume", "project_volume", "write_volume"]
