"""Write files whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hemolens.errors import UserError


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it into place when the block ends without error.

    Args:
        path: final file; its folder is made. The temporary name keeps the suffix, since writers look at it.
        overwrite: replace an existing file. Without it an existing file is an error.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is false, or the disk is full or not writable.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another name or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", exit_code=1) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; give them the usual mode
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", exit_code=1) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``folder`` that takes its place if the block ends without error, and else vanishes.

    An existing ``folder`` is replaced: look into it first.

    Raises:
        UserError: not writable.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}-"))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}", exit_code=1) from error
    try:
        new, old = workplace / "new", workplace / "old"
        new.mkdir()  # within the workplace, which is private, so that it has the usual mode
        yield new
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        except OSError as error:
            if old.exists():
                os.replace(old, folder)
            raise UserError(f"cannot write {folder}: {error.strerror or error}", exit_code=1) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def write_json(path: str | Path, content: Any, *, overwrite: bool = False) -> None:
    """Write ``content`` as indented JSON, atomically (see :func:`atomic_path` for errors)."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
