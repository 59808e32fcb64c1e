"""Off-axis digital holography: formation, retrieval, refocusing, unwrapping, flattening."""

from hemolens.optics.holography.background import flatten, level_field
from hemolens.optics.holography.formation import Hologram, HologramSettings, SaturationWarning, form_hologram
from hemolens.optics.holography.propagation import Focus, autofocus, refocus
from hemolens.optics.holography.reconstruction import (
    Reconstruction,
    ReconstructionSettings,
    dry_mass_pg,
    reconstruct,
    saturated_fraction,
)
from hemolens.optics.holography.retrieval import Sideband, find_sideband, retrieve_offaxis
from hemolens.optics.holography.unwrapping import count_residues, unwrap

__all__ = [
    "Focus",
    "Hologram",
    "HologramSettings",
    "Reconstruction",
    "ReconstructionSettings",
    "SaturationWarning",
    "Sideband",
    "autofocus",
    "count_residues",
    "dry_mass_pg",
    "find_sideband",
    "flatten",
    "form_hologram",
    "level_field",
    "reconstruct",
    "refocus",
    "retrieve_offaxis",
    "saturated_fraction",
    "unwrap",
]
