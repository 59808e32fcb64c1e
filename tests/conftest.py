"""Fixtures used by more than one folder of tests."""

import importlib.util
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets: HEMOLENS_SHARED_DATA or ../shared/data. CI fails without it."""
    folder = Path(os.environ.get("HEMOLENS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"no real data at {folder}: set HEMOLENS_SHARED_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@cache
def load_module(path: Path) -> ModuleType:
    """A file that is in no package, such as ``REPOSITORY / "scripts" / "make_test_data.py"``, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def data_script() -> ModuleType:
    return load_module(REPOSITORY / "scripts" / "make_test_data.py")


@pytest.fixture(scope="session")
def voc_folder_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PASCAL VOC data set of 8 pictures of 96x128; for reading only."""
    return data_script().make_voc_folder(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="session")
def cell_folder_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 pictures of 40x46 in each of the folders RBC, WBC and Platelets; for reading only."""
    return data_script().make_cell_folder(tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture
def cell_folder(cell_folder_made_once: Path, tmp_path: Path) -> Path:
    """A copy of that data set that a test may damage."""
    return Path(shutil.copytree(cell_folder_made_once, tmp_path / "cells"))


@pytest.fixture
def voc_folder(voc_folder_made_once: Path, tmp_path: Path) -> Path:
    """A copy of that data set that a test may damage."""
    return Path(shutil.copytree(voc_folder_made_once, tmp_path / "voc"))
