"""``hemolens reconstruct``: off-axis holograms in, quantitative phase images out."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("reconstruct", arguments, reconstruct)


def reconstruct(cfg: DictConfig) -> None:
    """Phase of every hologram of ``cfg.input``, into ``cfg.output``.

    Files that cannot be reconstructed are named and left out; the others are done, and the exit code is 1.
    """
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.hologram_jobs import list_jobs
    from hemolens.inference.reconstruction import reconstruct_files
    from hemolens.optics.holography import ReconstructionSettings

    config = resolved(cfg)
    device = _device(cfg.device)
    names = ReconstructionSettings.__dataclass_fields__
    settings = {key: value for key, value in config.items() if key in names}
    output = Path(cfg.output)
    jobs = list_jobs(
        Path(cfg.input),
        reference=Path(cfg.reference) if cfg.reference else None,
        manifest=cfg.manifest,
        output=output,
    )
    skipped: list[UserError] = []

    def leave_out(error: UserError) -> None:
        if len(jobs) > 1:  # of a single file the last line says it
            log.error("left out: %s", error)
        skipped.append(error)

    count = reconstruct_files(jobs, output, settings, device=device, leave_out=leave_out)
    if count:
        print(f"{count} phase images, quality.csv and contact_sheet.png: {output}")
    if skipped:
        if len(jobs) == 1:
            raise UserError(str(skipped[0]), exit_code=1)
        raise UserError(f"{len(skipped)} of {len(jobs)} files were left out; the first: {skipped[0]}", exit_code=1)


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name}: choose from auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no CUDA device; take device=auto or cpu")
    return "cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu")
