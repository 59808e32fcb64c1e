"""hemolens: label-free hematology from refractive-index tomograms and off-axis holograms."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemolens.inference.load import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `hemolens --help` does not wait for torch.
    if name == "load":
        from hemolens.inference.load import load

        return load
    raise AttributeError(f"module 'hemolens' has no attribute {name!r}")
