"""Where hemolens' configs lie; imports nothing heavy, since shell completion asks it at each Tab."""

from pathlib import Path

from hemolens.errors import UserError


def config_dir() -> Path:
    """The folder of configs: ``configs/`` of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package.parents[1] / "configs", package / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").exists():
            return candidate
    raise UserError(f"hemolens' configs are in none of {', '.join(map(str, candidates))}: reinstall hemolens")
