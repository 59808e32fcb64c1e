"""Phase images as OME-TIFF, with what is known about their scale."""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path
from hemolens.io.images import named_errors
from hemolens.io.volumes.tiff import ome_facts

NAMESPACE = "hemolens.phase"


@dataclass(frozen=True, eq=False)
class PhaseImage:
    """A phase image and its scale; None where that is not known.

    Attributes:
        phase_rad: float32 [H, W], unwrapped; the background is at 0.
        pixel_um: side of a pixel in the object's space.
        wavelength_um: in vacuum.
        medium_index: refractive index of the medium.
        refocus_um: distance by which the recorded field was propagated.
    """

    phase_rad: NDArray[np.float32]
    pixel_um: float | None = None
    wavelength_um: float | None = None
    medium_index: float | None = None
    refocus_um: float | None = None


def write_phase(path: str | Path, image: PhaseImage, *, overwrite: bool = False) -> None:
    """Write a phase image; napari, Fiji and QuPath show it with its scale.

    Pixel size and wavelength stand where OME keeps them, all numbers also in a map annotation.

    Args:
        path: ends in ``.ome.tif``.
        image: what to write.
        overwrite: replace an existing file.

    Raises:
        UserError: no phase image, the file exists, or no space.
    """
    phase = np.asarray(image.phase_rad)
    if phase.ndim != 2 or not np.issubdtype(phase.dtype, np.floating):
        raise UserError(f"{path}: a phase image is floats [H, W], not {phase.dtype} {list(phase.shape)}")
    facts = {
        name: value
        for name in ("pixel_um", "wavelength_um", "medium_index", "refocus_um")
        if (value := getattr(image, name)) is not None
    }
    metadata: dict[str, Any] = {"axes": "YX", "Channel": {"Name": "phase (rad)"}}
    if image.pixel_um is not None:
        metadata |= {f"PhysicalSize{axis}": image.pixel_um for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    if image.wavelength_um is not None:
        metadata["Channel"] |= {
            "ExcitationWavelength": image.wavelength_um * 1000,
            "ExcitationWavelengthUnit": "nm",
        }
    metadata["MapAnnotation"] = {
        "Namespace": NAMESPACE,
        "unit": "rad",
        **{name: json.dumps(value) for name, value in facts.items()},
    }
    with atomic_path(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(temporary, phase.astype(np.float32), ome=True, compression="zlib", metadata=metadata)


def read_phase(path: str | Path) -> PhaseImage:
    """A phase image that :func:`write_phase` wrote, or any floating-point TIFF [H, W] in rad.

    Raises:
        UserError: missing, damaged, or no floating-point picture.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such phase image")
    with named_errors(path), tifffile.TiffFile(path) as tiff:
        phase = np.squeeze(tiff.series[0].asarray())
        xml = tiff.ome_metadata if tiff.is_ome else None
    if phase.ndim != 2 or not np.issubdtype(phase.dtype, np.floating):
        raise UserError(f"{path} holds {phase.dtype} {list(phase.shape)}; a phase image is floats [H, W] in rad")
    facts = ome_facts(xml)
    noted = _noted(xml)
    return PhaseImage(
        phase.astype(np.float32),
        pixel_um=noted.get("pixel_um", facts.get("step_um", (None,))[-1]),
        wavelength_um=noted.get("wavelength_um", facts.get("wavelength_um")),
        medium_index=noted.get("medium_index", facts.get("medium_index")),
        refocus_um=noted.get("refocus_um"),
    )


def _noted(xml: str | None) -> dict[str, float]:
    """The numbers of our map annotation."""
    if xml is None:
        return {}
    root = ET.fromstring(xml)
    for annotation in root.iterfind(".//{*}MapAnnotation"):
        if annotation.get("Namespace") == NAMESPACE:
            entries = {entry.get("K"): entry.text or "" for entry in annotation.iterfind(".//{*}M")}
            return {key: float(text) for key, text in entries.items() if key and key not in ("unit",)}
    return {}
