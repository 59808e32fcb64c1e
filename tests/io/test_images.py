"""Reading image files: layouts, types, and errors that name the file."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from hemolens.errors import UserError
from hemolens.io.images import is_image, list_images, read_image, read_image_size, to_channels, to_float


@pytest.fixture
def grey() -> np.ndarray:
    return np.arange(6 * 7, dtype=np.uint8).reshape(6, 7)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_lossless_formats_give_the_stored_pixels(tmp_path, suffix, grey, colour):
    for name, array in (("grey", grey), ("colour", colour)):
        path = tmp_path / f"{name}{suffix}"
        Image.fromarray(array).save(path)
        image = read_image(path)
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(image, array)
        assert read_image_size(path) == (6, 7)


def test_jpeg(tmp_path):
    flat = np.full((16, 24, 3), 120, dtype=np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.JPG", quality=95)
    image = read_image(tmp_path / "a.JPG")
    assert image.shape == (16, 24, 3) and np.abs(image.astype(int) - 120).max() <= 2


def test_sixteen_bit_png_and_float_tiff_keep_their_values(tmp_path):
    deep = np.array([[0, 1], [256, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    phase = np.array([[-1.5, 0.25], [3.0, 7.5]])
    tifffile.imwrite(tmp_path / "phase.tif", phase)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), deep)
    assert read_image(tmp_path / "deep.png").dtype == np.uint16
    np.testing.assert_array_equal(read_image(tmp_path / "phase.tif"), phase.astype(np.float32))
    assert read_image(tmp_path / "phase.tif").dtype == np.float32


def test_odd_modes_become_grey_or_rgb(tmp_path, grey, colour):
    rgba = np.dstack([colour, np.full((6, 7), 17, dtype=np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), colour)
    Image.fromarray(grey > 20).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), (grey > 20) * np.uint8(255))
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.dstack([grey] * 3))


def test_tiff_layouts(tmp_path, grey, colour):
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(colour, -1, 0), photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "planar.tif"), colour)
    assert read_image_size(tmp_path / "planar.tif") == (6, 7)
    tifffile.imwrite(tmp_path / "one.ome.tif", grey[None, None], metadata={"axes": "CZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "one.ome.tif"), grey)
    tifffile.imwrite(tmp_path / "thin.tif", grey[:1])
    np.testing.assert_array_equal(read_image(tmp_path / "thin.tif"), grey[:1])
    tifffile.imwrite(tmp_path / "wide.tif", grey.astype(np.int32) * 1000)
    np.testing.assert_array_equal(read_image(tmp_path / "wide.tif"), grey.astype(np.uint16) * 1000)
    tifffile.imwrite(tmp_path / "mask.tif", grey > 20)
    np.testing.assert_array_equal(read_image(tmp_path / "mask.tif"), (grey > 20) * np.uint8(255))


def test_lzw_tiff(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif"), colour)


def test_stack_is_refused_with_a_remedy(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 6, 7), np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match=r"stack\.tif: holds 5 pages.*export one plane"):
        read_image(tmp_path / "stack.tif")
    with pytest.raises(UserError, match="holds 5 pages"):
        read_image_size(tmp_path / "stack.tif")


def test_values_that_no_type_holds_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "signed.tif", np.array([[-1, 2]], dtype=np.int16))
    with pytest.raises(UserError, match=r"signed\.tif: integer values outside"):
        read_image(tmp_path / "signed.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_damaged_files_are_named(tmp_path, suffix, colour):
    path = tmp_path / f"cell{suffix}"
    Image.fromarray(np.tile(colour, (20, 20, 1))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"cell\{suffix}: corrupt or unreadable image.*replace the file"):
        read_image(path)
    path.write_bytes(b"these are not pixels")
    for read in (read_image, read_image_size):
        with pytest.raises(UserError, match=rf"cell\{suffix}: corrupt or unreadable") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="corrupt or unreadable"):
        read_image(path)


def test_missing_and_unsupported(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such image file"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt: unsupported image type, use one of \.png"):
        read_image(tmp_path / "notes.txt")


def test_to_float_scales_by_type_alone():
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        values = to_float(np.array([0, 1, top], dtype=dtype))
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, np.array([0, 1 / top, 1], dtype=np.float32))
    np.testing.assert_array_equal(to_float(np.array([-2.0, 9.0])), np.array([-2, 9], dtype=np.float32))
    with pytest.raises(UserError, match="int64"):
        to_float(np.array([1, 2]))


def test_to_channels(grey, colour):
    np.testing.assert_array_equal(to_channels(grey, 1), grey[..., None])
    np.testing.assert_array_equal(to_channels(grey, 3), np.dstack([grey] * 3))
    np.testing.assert_array_equal(to_channels(colour, 3), colour)
    luma = [[round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in row.tolist()] for row in colour]
    np.testing.assert_array_equal(to_channels(colour, 1)[..., 0], luma)
    assert to_channels(colour, 1).dtype == np.uint8
    white = to_channels(np.full((1, 1, 3), 255, np.uint8), 1)
    assert white.item() == 255
    with pytest.raises(UserError, match="in_channels=2"):
        to_channels(grey, 2)


def test_list_images(tmp_path, grey):
    for name in ("b.png", "a.TIF", ".hidden.png"):
        Image.fromarray(grey).save(tmp_path / name)
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.TIF", "b.png"]
    assert is_image("x.JPEG") and not is_image("x.gif")
    with pytest.raises(UserError, match=r"folder\.png holds no image"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(UserError, match="is not a folder"):
        list_images(tmp_path / "nowhere")


def test_real_holograms_are_read(shared_data):
    folder = shared_data / "holograms"
    assert read_image(folder / "pydhm" / "RBC.jpg").shape == (1023, 1023, 3)
    assert read_image(folder / "notele_dhm" / "4cm_20x_usaf_square.tif").shape == (1200, 1200)
