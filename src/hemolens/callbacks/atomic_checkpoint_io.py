"""Checkpoints are written to a temporary name and moved into place: a full disk or a kill leaves the old one."""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from hemolens.io.atomic import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint writer with an atomic rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save ``checkpoint``; a ``UserError`` names the file where the disk is full or not writable."""
        with atomic_path(Path(path), overwrite=True) as temporary:
            try:
                super().save_checkpoint(checkpoint, temporary, storage_options)
            except RuntimeError as error:  # torch's zip writer reports a full disk so
                raise OSError(f"writing the checkpoint failed ({error}); is the disk full?") from error
