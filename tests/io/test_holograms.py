"""Hologram files in every layout, and phase images."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from hemolens.errors import UserError
from hemolens.io.holograms import HologramFacts, is_hologram, list_holograms, open_hologram, stem_of
from hemolens.io.images import read_image
from hemolens.io.phase import PhaseImage, read_phase, write_phase

GREY = np.random.default_rng(0).integers(0, 255, (30, 44), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".TIFF"])
def test_grey_pictures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rbc{suffix}"
    Image.fromarray(GREY).save(path)
    opened = open_hologram(path)
    assert (opened.size, opened.frames, opened.facts) == ((30, 44), 1, HologramFacts())
    assert np.array_equal(opened.read(), GREY)
    assert opened.name() == "rbc"
    with pytest.raises(UserError, match="no frame 1"):
        opened.read(1)


def test_sixteen_bits_and_colour(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(open_hologram(tmp_path / "deep.png").read(), deep)
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "rgb.png")
    assert np.array_equal(open_hologram(tmp_path / "rgb.png").read(), GREY)


@pytest.mark.parametrize("pages", [1, 3])
def test_palettes_are_looked_up(tmp_path: Path, pages: int) -> None:
    palette = np.zeros((3, 256), np.uint16)
    palette[:] = np.arange(255, -1, -1) * 257  # inverted greys
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        for page in range(pages):
            writer.write(GREY + np.uint8(page), photometric="palette", colormap=palette, contiguous=False)
    opened = open_hologram(tmp_path / "p.tif")
    assert opened.frames == pages
    assert np.array_equal(opened.read(0), 255 - GREY)
    if pages == 1:
        assert np.array_equal(read_image(tmp_path / "p.tif"), np.stack([255 - GREY] * 3, -1))
    else:
        assert np.array_equal(opened.read(2), 255 - (GREY + np.uint8(2)))
        assert opened.name(2) == "p_2"


def test_one_channel_of_a_colour_camera(tmp_path: Path) -> None:
    red = np.zeros((30, 44, 3), np.uint8)
    red[..., 0] = GREY
    Image.fromarray(red).save(tmp_path / "red.png")
    assert np.array_equal(open_hologram(tmp_path / "red.png").read(), GREY)


def test_names(tmp_path: Path) -> None:
    for name, stem in (("a.b.png", "a.b"), ("A.OME.TIF", "A"), ("x.ome.tiff", "x"), ("x.ome.png", "x.ome")):
        assert stem_of(Path(name)) == stem


def test_ome_tiff_states_its_scale(tmp_path: Path) -> None:
    metadata = {
        "axes": "YX",
        "PhysicalSizeX": 107.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 107.0,
        "PhysicalSizeYUnit": "nm",
        "Channel": {"ExcitationWavelength": 633.0, "ExcitationWavelengthUnit": "nm"},
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY, ome=True, metadata=metadata)
    opened = open_hologram(tmp_path / "a.ome.tif")
    assert opened.facts.pixel_um == pytest.approx(0.107)
    assert opened.facts.wavelength_um == pytest.approx(0.633)
    assert opened.name() == "a"


def qpformat(path: Path, *, frames: int = 1, **attributes: float) -> Path:
    facts = {
        "wavelength": 532e-9,
        "pixel size": 84.75e-9,
        "medium index": 1.333,
        "numerical aperture": 1.0,
    } | attributes
    with h5py.File(path, "w") as file:
        file.attrs.update({"file_format": "qpformat", "imaging_modality": "off-axis holography"})
        for frame in range(frames):
            file[str(frame)] = GREY + np.uint8(frame)
            file[str(frame)].attrs.update(facts | attributes)
    return path


def test_qpformat(tmp_path: Path) -> None:
    opened = open_hologram(qpformat(tmp_path / "series.h5", frames=12))
    assert opened.frames == 12
    assert np.array_equal(opened.read(10), GREY + np.uint8(10))  # by number, not by letter
    assert vars(opened.facts) == pytest.approx(
        {"wavelength_um": 0.532, "pixel_um": 0.08475, "medium_index": 1.333, "numerical_aperture": 1.0}
    )
    assert opened.name(3) == "series_03"
    given = HologramFacts(pixel_um=0.1).over(opened.facts)
    assert (given.pixel_um, given.wavelength_um) == (0.1, pytest.approx(0.532))


def test_bad_files_are_named(tmp_path: Path) -> None:
    # a bad attribute is as good as none: who needs it is told to give it
    assert open_hologram(qpformat(tmp_path / "bad.h5", wavelength=float("nan"))).facts.wavelength_um is None
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["0"] = GREY
        file["0"].attrs["wavelength"] = "633 nm"
    assert open_hologram(tmp_path / "words.h5").facts == HologramFacts()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["volume"] = GREY
    with pytest.raises(UserError, match=r"other\.h5.*volume"):
        open_hologram(tmp_path / "other.h5")
    Image.fromarray(GREY).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.png.*corrupt"):
        open_hologram(tmp_path / "cut.png").read()
    whole = qpformat(tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.h5.*corrupt"):
        open_hologram(tmp_path / "cut.h5")
    with pytest.raises(UserError, match="no such"):
        open_hologram(tmp_path / "missing.png")
    (tmp_path / "words.txt").write_text("no")
    with pytest.raises(UserError, match="read from files ending"):
        open_hologram(tmp_path / "words.txt")
    deflated = np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)
    tifffile.imwrite(tmp_path / "cut.tif", deflated, compression="zlib")
    damaged = bytearray((tmp_path / "cut.tif").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 2000] = bytes(2000)
    (tmp_path / "cut.tif").write_bytes(damaged)
    with pytest.raises(UserError, match=r"cut\.tif.*corrupt"):
        open_hologram(tmp_path / "cut.tif").read()
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[:20])
    with pytest.raises(UserError, match="2 sizes"):
        open_hologram(tmp_path / "sizes.tif")


def test_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.tif", "inner/c.PNG", ".hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_holograms(tmp_path)] == ["a.tif", "b.png", "c.PNG"]
    assert is_hologram("x.HDF5")
    with pytest.raises(UserError, match="no hologram or folder"):
        list_holograms(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no hologram"):
        list_holograms(tmp_path / "empty")


def test_phase_images_keep_their_scale(tmp_path: Path) -> None:
    phase = np.random.default_rng(0).normal(size=(20, 31)).astype(np.float32)
    image = PhaseImage(phase, 0.144088, 0.666, 1.334, -8.25)
    write_phase(tmp_path / "p.ome.tif", image)
    found = read_phase(tmp_path / "p.ome.tif")
    assert np.array_equal(found.phase_rad, phase)
    facts = (found.pixel_um, found.wavelength_um, found.medium_index, found.refocus_um)
    assert facts == (0.144088, 0.666, 1.334, -8.25)
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as tiff:  # what other programs read
        assert 'PhysicalSizeX="0.144088"' in tiff.ome_metadata
        assert 'ExcitationWavelength="666.0"' in tiff.ome_metadata
    with pytest.raises(UserError, match="exists"):
        write_phase(tmp_path / "p.ome.tif", image)
    write_phase(tmp_path / "bare.ome.tif", PhaseImage(phase))
    bare = read_phase(tmp_path / "bare.ome.tif")
    assert (bare.pixel_um, bare.wavelength_um, bare.refocus_um) == (None, None, None)
    with pytest.raises(UserError, match="floats"):
        write_phase(tmp_path / "x.ome.tif", PhaseImage(GREY))
    tifffile.imwrite(tmp_path / "grey.tif", GREY)
    with pytest.raises(UserError, match="floats"):
        read_phase(tmp_path / "grey.tif")
    with pytest.raises(UserError, match="no such"):
        read_phase(tmp_path / "missing.tif")
