"""Read PNG, JPEG, BMP and TIFF files into numpy arrays, with errors that name the file.

Pixels are returned as stored: no scaling, no min-max stretch, no EXIF rotation (boxes drawn by annotation
tools refer to stored pixels). Scaling to [0, 1] is :func:`to_float`, a separate and visible step.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from hemolens.errors import UserError

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES)

#: ITU-R BT.601 luma, the weights of Pillow's "L" and OpenCV's grey.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)

# How a Pillow mode is brought to one of the three layouts of read_image. Alpha is dropped.
_MODE_TARGET = {"1": "L", "L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "RGB"}


def is_image(path: str | Path) -> bool:
    """Whether the suffix of ``path`` is one that :func:`read_image` reads (upper case counts too)."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def list_images(folder: str | Path) -> list[Path]:
    """The image files directly inside ``folder``, sorted by name; hidden files are left out.

    Raises:
        UserError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a folder that holds images")
    files = sorted(p for p in folder.iterdir() if is_image(p) and not p.name.startswith(".") and p.is_file())
    if not files:
        raise UserError(f"{folder} holds no image: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return files


def read_image(path: str | Path) -> np.ndarray:
    """Read one image file.

    Args:
        path: PNG, JPEG, BMP or (OME-)TIFF with one grey or colour picture.

    Returns:
        [H, W] (grey) or [H, W, 3] (RGB), C-contiguous, dtype uint8, uint16 or float32. One-bit images become
        0/255, palettes and CMYK become RGB, an alpha channel is dropped, float64 becomes float32.

    Raises:
        UserError: the file is missing, corrupt, truncated, holds several pages, or has another pixel type.
    """
    path = _existing(path)
    return _read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else _read_pillow(path)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels from the header alone; raises UserError as :func:`read_image` does."""
    path = _existing(path)
    with named_errors(path):
        if path.suffix.lower() in TIFF_SUFFIXES:
            with tifffile.TiffFile(path) as tiff:
                axes, shape = _tiff_layout(tiff, path)
                return shape[axes.index("Y")], shape[axes.index("X")]
        with Image.open(path) as image:
            return image.height, image.width


def to_float(image: np.ndarray) -> np.ndarray:
    """float32 copy of an image: uint8 is divided by 255, uint16 by 65535, float values are kept as they are.

    The scale depends on the type alone, never on the content, so that equal pixels of two files stay equal.
    Float files (phase in rad, refractive index) keep their unit; scaling those is up to the data module.

    Raises:
        UserError: another dtype.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    if image.dtype == np.uint16:
        return image.astype(np.float32) / np.float32(65535)
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32)
    raise UserError(f"image of type {image.dtype}: convert it to uint8, uint16 or float32")


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Bring [H, W] or [H, W, 3] to [H, W, channels], dtype kept.

    Grey to three channels repeats the plane; RGB to one channel is the luma 0.299 R + 0.587 G + 0.114 B
    (ITU-R BT.601), rounded for integer images.

    Raises:
        UserError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise UserError(f"in_channels={channels}: image files have 1 (grey) or 3 (RGB) channels")
    if image.ndim == 2:
        return np.repeat(image[..., None], channels, axis=2)
    if channels == 3:
        return image
    # Written out instead of a matrix product: BLAS may sum in another order from machine to machine.
    red, green, blue = (image[..., i].astype(np.float32) * np.float32(LUMA_WEIGHTS[i]) for i in range(3))
    luma = red + green + blue
    if np.issubdtype(image.dtype, np.integer):
        luma = np.rint(luma)
    return luma.astype(image.dtype)[..., None]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such image file")
    if not is_image(path):
        raise UserError(f"{path}: unsupported image type, use one of {', '.join(IMAGE_SUFFIXES)}")
    return path


def in_colour(page: tifffile.TiffPage, pixels: np.ndarray) -> np.ndarray:
    """Pixels of a TIFF page that holds a palette as uint8 RGB [H, W, 3]; those of any other page as they are."""
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return pixels
    return np.ascontiguousarray((page.colormap >> 8).astype(np.uint8).T[pixels])  # the colour map has 16 bits a colour


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what the decoders raise into one UserError that names the file."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata (EXIF, palette) of files whose pixels are fine.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large for one image ({error}); cut it into fields first") from error
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, RuntimeError, tifffile.TiffFileError) as error:
        # PIL's messages repeat the path, and carry no newline worth keeping
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: corrupt or unreadable image ({reason}); replace the file") from error


def _read_pillow(path: Path) -> np.ndarray:
    with named_errors(path), Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UserError(f"{path}: holds {frames} frames; save one picture a file")
        raw_mode = str(image.tile[0][3]) if image.tile else ""
        if image.mode == "RGB" and ";16" in raw_mode:
            raise UserError(f"{path}: 16-bit colour is read only from TIFF; save it as TIFF or with 8 bits")
        if image.mode.startswith("I"):  # I;16 is 16-bit grey; plain I is 32-bit
            return _checked_integers(np.array(image), path)
        if image.mode not in _MODE_TARGET:
            raise UserError(f"{path}: colour mode {image.mode} is not supported; save it as grey or RGB")
        return np.array(image.convert(_MODE_TARGET[image.mode]))


def _checked_integers(array: np.ndarray, path: Path) -> np.ndarray:
    """Wide integers to uint16 where the values allow it."""
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise UserError(f"{path}: integer values outside 0..65535; save it as uint16 or float32")
    return array.astype(np.uint16)


def _tiff_layout(tiff: tifffile.TiffFile, path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes letters and shape of the only picture in the file, size-1 axes removed; UserError if several."""
    series = tiff.series[0]
    kept = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"]
    axes, shape = "".join(axis for axis, _ in kept), tuple(size for _, size in kept)
    if len(tiff.series) > 1 or axes not in ("YX", "YXS", "SYX"):
        count = max(len(tiff.pages), len(tiff.series))
        raise UserError(
            f"{path}: holds {count} pages (axes {axes}, shape {shape}) where one picture is expected; "
            "export one plane or projection a file"
        )
    return axes, shape


def _read_tiff(path: Path) -> np.ndarray:
    with named_errors(path), tifffile.TiffFile(path) as tiff:
        axes, shape = _tiff_layout(tiff, path)
        dtype = tiff.series[0].dtype
        try:
            array = tiff.series[0].asarray().reshape(shape)
            if axes == "YX":
                array = in_colour(tiff.pages[0].aspage(), array)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_compressed_tiff(path, dtype)
    if axes == "SYX":
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3:
        if array.shape[2] not in (3, 4):
            raise UserError(f"{path}: {array.shape[2]} samples a pixel; save it as grey or RGB")
        array = array[..., :3]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        array = _checked_integers(array, path)
    return np.ascontiguousarray(array)


def _read_compressed_tiff(path: Path, dtype: np.dtype | None) -> np.ndarray:
    """LZW and JPEG compression, which tifffile leaves to an optional package, through Pillow's libtiff."""
    array = _read_pillow(path)
    if array.dtype != dtype:  # Pillow reduces some types to 8 bits without a word
        raise UserError(f"{path}: compressed {dtype} TIFF; save it uncompressed or with Deflate (zip) compression")
    return array
