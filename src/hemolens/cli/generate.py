"""``hemolens generate``: synthetic phase images with masks, from two checkpoints of diffusion GANs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError

STAGES = ("sample", "select", "augment")
SAMPLED, SELECTED, AUGMENTED = "sampled", "selected", "augmented"


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("generate", arguments, generate)


def generate(cfg: DictConfig) -> None:
    """Run the stages of ``cfg.stages``, in their order, below ``cfg.output``."""
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.pair_rule import SelectionRule

    config = resolved(cfg)
    stages = config["stages"]
    if not isinstance(stages, list) or not stages or set(stages) - set(STAGES):
        raise UserError(f"stages={stages}: choose from [{','.join(STAGES)}]")
    rule = SelectionRule.from_config(config["select"])
    output = Path(config["output"])
    if "sample" in stages:
        _sample(config, output / SAMPLED)
    if "select" in stages:
        _select(output, rule)
    if "augment" in stages:
        _augment(config, output)


def _sample(config: dict[str, Any], folder: Path) -> None:
    import torch

    from hemolens.inference.pair_sampling import PairSampler, sample_pairs

    if config["phase_ckpt"] is None:
        raise UserError(
            "phase_ckpt must be given: add phase_ckpt=<run>/checkpoints/best.ckpt of a model=ddgan_phase run"
        )
    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = PairSampler(config["phase_ckpt"], config["mask_ckpt"], masks=config["masks"], device=device)
    settings = {key: config[key] for key in ("n", "seed", "batch_size")}
    made = sample_pairs(sampler, folder, **settings)
    print(f"sample: {made:,} pairs made, {config['n'] - made:,} were there: {folder}")


def _select(output: Path, rule: Any) -> None:
    from hemolens.inference.pair_sampling import sampled_facts
    from hemolens.inference.pair_selection import run_selection

    class_names, cells = sampled_facts(output / SAMPLED)
    report = run_selection(output / SAMPLED, output / SELECTED, class_names, rule, cells=cells)
    print("\n".join([*report.lines, f"select: {output / SELECTED}"]))


def _augment(config: dict[str, Any], output: Path) -> None:
    from hemolens.inference.pair_augmentation import augment_pairs
    from hemolens.inference.pair_selection import read_accepted

    accepted = read_accepted(output / SELECTED)
    done = augment_pairs(
        output / SAMPLED, accepted, output / AUGMENTED, count=config["augment"]["count"], seed=config["seed"]
    )
    print(
        f"augment: {done.made:,} copies made, {done.kept:,} were there, {done.removed:,} removed; train with "
        f"data.synthetic_dir={output / AUGMENTED}"
    )
