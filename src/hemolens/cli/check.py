"""``hemolens check``: what an instrument does to beads of known size and index, or to repeated fields of a sample."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError

log = logging.getLogger("hemolens")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("check", arguments, check)


def check(cfg: DictConfig) -> None:
    """Check ``cfg.input`` into the new folder ``cfg.output`` and print what follows.

    Files that cannot be measured are named and left out; the others are done, and the exit code is 1.
    """
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.outputs import check_output_folder
    from hemolens.inference.repeatability import check_repeatability

    config = resolved(cfg)
    if cfg.kind not in ("bead", "repeatability"):
        raise UserError(f"kind={cfg.kind}: choose from bead, repeatability")
    source, output = Path(cfg.input), Path(cfg.output)
    check_output_folder(output)
    if cfg.kind == "repeatability":
        print("\n".join(check_repeatability(source, output, manifest=cfg.manifest)))
        return
    _beads(config, source, output)


def _beads(config: dict[str, Any], source: Path, output: Path) -> None:
    from hemolens.analysis.beads import Bead
    from hemolens.inference.instrument_check import BeadCheck, check_beads

    bead = Bead(**{name: config[name] for name in ("diameter_um", "refractive_index", "medium_index")})
    hologram = dict(config["hologram"])
    reference, manifest = hologram.pop("reference"), hologram.pop("manifest")
    hologram["medium_index"] = hologram["medium_index"] or bead.medium_index
    names = ("condenser_na", "objective_na", "refraction", "blur_um", "worst_residual_percent", "n_baseline", "volume")
    how = BeadCheck(
        bead=bead,
        hologram=hologram,
        baseline=Path(config["baseline"]) if config["baseline"] else None,
        **{name: config[name] for name in names},
    )
    skipped: list[UserError] = []

    def leave_out(error: UserError) -> None:
        log.error("left out: %s", error)
        skipped.append(error)

    lines = check_beads(
        source,
        output,
        how,
        reference=Path(reference) if reference else None,
        manifest=manifest,
        leave_out=leave_out,
    )
    print("\n".join(lines))
    if skipped:
        raise UserError(f"left out: {len(skipped)}; the first: {skipped[0]}", exit_code=1)
