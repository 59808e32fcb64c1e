"""OME-TIFF and TIFF stacks.

Physical sizes, the medium's refractive index (ObjectiveSettings) and the wavelength (Channel) stand in the OME-XML
(schema 2016-06), so that napari, Fiji and QuPath show the scale.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from hemolens.errors import UserError
from hemolens.io.volumes.volume import Found, RIArray, Volume

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
#: Length units of OME in micrometres.
UNITS_UM = {"m": 1e6, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "Å": 1e-4, "pm": 1e-6}
DEPTH_AXES = "ZIQ"  # tifffile's names of a stack whose axis the file does not name: I and Q


def is_stack(path: Path) -> bool:
    """Whether the first series of a TIFF has more axes than a picture; false for what is no TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            return any(n > 1 for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXSC")
    except (OSError, ValueError, IndexError, tifffile.TiffFileError):
        return False


def read_tiff(path: Path, time_point: int) -> Found:
    """The first series of a TIFF: [Z, Y, X], or [T, Z, Y, X] with ``time_point``; one channel.

    Raises:
        UserError: no TIFF, damaged, no stack, several channels, or no such time point.
    """
    try:
        file = tifffile.TiffFile(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise UserError(f"{path} is not a TIFF file, or is truncated: {error}", exit_code=1) from error
    try:
        series = file.series[0]
        axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
        wide = [(axis, size) for axis, size in zip(axes, shape, strict=True) if size > 1 or axis in "YX"]
        names = "".join(axis for axis, _ in wide)
        times = next((size for axis, size in wide if axis == "T"), 1)
        spatial = names.replace("T", "")
        if len(spatial) != 3 or spatial[0] not in DEPTH_AXES or spatial[1:] != "YX":
            raise UserError(
                f"{path} has the axes {axes} {list(shape)}; a volume has Z, Y and X (and T), one channel: "
                "split channels or save one stack a file"
            )
        if not 0 <= time_point < times:
            raise UserError(f"{path}: time_point={time_point}, but the file has 0 to {times - 1}")
        depth = next(size for axis, size in wide if axis in DEPTH_AXES)
        source = _Pages(series, depth, time_point if names.startswith("T") else None, times, shape[-2:])
        facts = ome_facts(file.ome_metadata) if file.is_ome else _imagej_facts(file)
        step = facts.pop("step_um", None)
        if step is not None:
            facts["voxel_um"] = None if None in step else step
    except BaseException:
        file.close()
        raise
    return Found(source=source, chunks=(1, *shape[-2:]), time_points=times, close=file.close, **facts)


class _Pages:
    """Stored numbers [Z, Y, X], one page a slice."""

    def __init__(self, series: Any, depth: int, time: int | None, times: int, plane: tuple[int, ...]) -> None:
        self.series, self.dtype, self.shape = series, np.dtype(series.dtype), (depth, *plane)
        # Z is the axis of the pages, T before it (TZYX, as tifffile, Fiji and OME order them here)
        self.first = 0 if time is None else time * depth
        # ImageJ writes stacks above 4 GB as one page and a long run of numbers
        self.whole = None
        if len(series.pages) < depth * times:
            self.whole = series.asarray(out="memmap").reshape(times, depth, *plane)[time or 0]

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        if self.whole is not None:
            return np.asarray(self.whole[index])
        chosen = range(*index[0].indices(self.shape[0]))
        pages = [self.series.pages[self.first + z].asarray()[index[1:]] for z in chosen]
        empty = (0, *(len(range(*s.indices(n))) for s, n in zip(index[1:], self.shape[1:], strict=True)))
        return np.stack(pages) if pages else np.empty(empty, self.dtype)


def ome_facts(xml: str | None) -> dict[str, Any]:
    """What an OME-XML states: ``step_um``, sides (z, y, x) of a pixel, each a length in um or None; ``medium_index``
    and ``wavelength_um``, or None. Empty for what is no OME-XML."""
    try:
        root = ET.fromstring(xml or "")
    except ET.ParseError:
        return {}
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return {}
    steps = tuple(_length_um(pixels, f"PhysicalSize{axis}") for axis in "ZYX")
    settings, channel = root.find(".//{*}ObjectiveSettings"), root.find(".//{*}Channel")
    medium = None if settings is None else settings.get("RefractiveIndex")
    wavelengths: list[float | None] = []
    if channel is not None:
        wavelengths = [_length_um(channel, f"{kind}Wavelength", "nm") for kind in ("Excitation", "Emission")]
    return {
        "step_um": steps,
        "medium_index": None if medium is None else float(medium),
        "wavelength_um": next((length for length in wavelengths if length is not None), None),
    }


def _imagej_facts(file: tifffile.TiffFile) -> dict[str, Any]:
    """Voxel size of a stack saved by ImageJ: spacing in its description, resolution in the tags."""
    facts = file.imagej_metadata or {}
    page: Any = file.pages[0]
    unit = UNITS_UM.get(str(facts.get("unit", "")).replace("\\u00B5", "µ").replace("micron", "µm"))
    tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
    if unit is None or "spacing" not in facts or None in tags:
        return {}
    per_unit = [tag.value[0] / tag.value[1] for tag in tags if tag.value[0] and tag.value[1]]
    if len(per_unit) != 2:
        return {}
    return {"voxel_um": (float(facts["spacing"]) * unit, unit / per_unit[0], unit / per_unit[1])}


def _length_um(element: ET.Element, key: str, unit: str = "µm") -> float | None:
    value = element.get(key)
    factor = UNITS_UM.get(element.get(f"{key}Unit", unit))
    return None if value is None or factor is None else float(value) * factor


def write_ome_tiff(path: Path, volume: Volume, title: str) -> None:
    """Write float32 RI, one zlib-compressed page a slice, in tiles of 256 px; BigTIFF where it needs to be."""
    array = volume.array
    xml = _ome_xml(volume, title)
    large = array.shape[0] * array.shape[1] * array.shape[2] * 4 > 3.5e9
    with tifffile.TiffWriter(path, bigtiff=large) as writer:
        writer.write(
            _tiled(array, 256),
            shape=array.shape,
            dtype=np.float32,
            photometric="minisblack",
            compression="zlib",
            tile=(256, 256),
            description=xml.encode(),
            metadata=None,
        )


def _tiled(array: RIArray, side: int) -> Iterator[NDArray[np.float32]]:
    """Tiles of the slices in the order in which a TIFF keeps them, padded at the edges."""
    for z in range(len(array)):
        plane = array[z]
        height, width = plane.shape
        padded = np.pad(plane, ((0, -height % side), (0, -width % side)), mode="edge")
        for y in range(0, height, side):
            for x in range(0, width, side):
                yield np.ascontiguousarray(padded[y : y + side, x : x + side])


def _ome_xml(volume: Volume, title: str) -> str:
    ET.register_namespace("", OME)
    root = ET.Element(f"{{{OME}}}OME", Creator="hemolens")

    def child(parent: ET.Element, name: str, **attributes: object) -> ET.Element:
        return ET.SubElement(parent, f"{{{OME}}}{name}", {key: str(value) for key, value in attributes.items()})

    child(child(root, "Instrument", ID="Instrument:0"), "Objective", ID="Objective:0")
    image = child(root, "Image", ID="Image:0", Name=title)
    child(image, "InstrumentRef", ID="Instrument:0")
    child(image, "ObjectiveSettings", ID="Objective:0", RefractiveIndex=volume.medium_index)
    sizes: dict[str, object] = {f"Size{axis}": n for axis, n in zip("ZYX", volume.shape, strict=True)}
    for axis, step in zip("ZYX", volume.voxel_um, strict=True):
        sizes |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "µm"}
    pixels = child(image, "Pixels", ID="Pixels:0", DimensionOrder="XYZCT", Type="float", SizeC=1, SizeT=1, **sizes)
    light: dict[str, object] = {}
    if volume.wavelength_um is not None:
        light = {"ExcitationWavelength": volume.wavelength_um * 1000, "ExcitationWavelengthUnit": "nm"}
    child(pixels, "Channel", ID="Channel:0:0", Name="refractive index", SamplesPerPixel=1, **light)
    child(pixels, "TiffData", IFD=0, PlaneCount=volume.shape[0])
    return '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")
