"""Label masks come back as they were written."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from hemolens.errors import UserError
from hemolens.io.labels import read_labels, write_labels


@pytest.mark.parametrize(("highest", "dtype"), [(7, np.uint16), (65535, np.uint16), (70000, np.uint32)])
def test_round_trip(tmp_path: Path, highest: int, dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, highest + 1, (33, 47))
    labels[3, 4] = highest
    path = tmp_path / "cells.ome.tif"
    write_labels(path, labels, pixel_um=0.162)
    found = read_labels(path)
    assert found.dtype == dtype
    assert (found == labels).all()
    with tifffile.TiffFile(path) as tiff:
        assert 'PhysicalSizeX="0.162"' in (tiff.ome_metadata or "")
    with pytest.raises(UserError, match="exists"):
        write_labels(path, labels)


@pytest.mark.parametrize("labels", [np.zeros((2, 3)), np.zeros(4, int), np.array([[-1, 2]])])
def test_what_is_no_mask_is_refused(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(UserError, match="label"):
        write_labels(tmp_path / "x.ome.tif", labels)
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tif"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.ome\.tif"):
        read_labels(path)
    tifffile.imwrite(path, np.zeros((3, 4, 5), np.uint16))
    with pytest.raises(UserError, match="holds uint16"):
        read_labels(path)
