"""Segmentation of phase images and holograms of any size and scale, by a predictor and by `hemolens predict`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor, nn

import hemolens as package
from hemolens.analysis.red_cells import MEASURES
from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.main import main
from hemolens.data.segmentation import PhaseSpec
from hemolens.errors import UserError
from hemolens.inference.load import SegmentationPredictor
from hemolens.inference.phase_inputs import is_phase, list_inputs
from hemolens.inference.segmentation_outputs import SegmentedField, write_segmentations
from hemolens.io.labels import read_labels
from hemolens.io.phase import PhaseImage, read_phase, write_phase
from hemolens.optics.holography import HologramSettings, form_hologram
from hemolens.tasks.segmentation import SegmentationTask

NAMES = ["background", "a", "b", "c"]
PIXEL_UM, WAVELENGTH_UM = 0.144, 0.666
SPEC = PhaseSpec(phase_limits_rad=(-1.0, 5.0), pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
NET = {
    "_target_": "hemolens.nets.baselines.DeepResUNet",
    "num_classes": 4,
    "in_channels": 1,
    "widths": [4, 8],
}
MODEL = {
    "_target_": "hemolens.tasks.segmentation.SegmentationTask",
    "cells": {"min_area_px": 20},
    "class_weights": [1, 2, 3, 4],
}


class Reader(nn.Module):
    """Knows the class by the phase, which is the class in rad at the wavelength of training; keeps what it saw."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(30.0))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        levels = (torch.arange(4.0)[:, None, None] + 1) / 3 - 1
        return -self.sharpness * (images - levels).abs()


def scene(height: int = 150, width: int = 205) -> tuple[np.ndarray, np.ndarray]:
    """Classes and the middles (y, x) of discs, one of each class, and two of class 1 that touch."""
    y, x = np.mgrid[:height, :width]
    places = np.array([[40, 40, 1], [40, 110, 2], [105, 60, 3], [100, 130, 1], [100, 164, 1]])
    classes = np.zeros((height, width), np.uint8)
    for cy, cx, kind in places:
        classes[(y - cy) ** 2 + (x - cx) ** 2 <= 18**2] = kind
    return classes, places


def reader(**spec: Any) -> SegmentationPredictor:
    task = SegmentationTask(net=Reader(), class_names=NAMES, cells={"min_area_px": 20}).eval()
    return SegmentationPredictor(task, PhaseSpec(**(SPEC.to_dict() | spec)), {}, "32-true")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained network; for reading only."""
    torch.manual_seed(0)
    task = instantiate(MODEL, net=instantiate(NET), class_names=NAMES)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    folder.mkdir()
    stored = {"version": "0", "task": "SegmentationTask", "config": {"net": NET, "model": MODEL}}
    stored |= {"class_names": NAMES, "input": SPEC.to_dict()}
    torch.save({"state_dict": task.state_dict(), KEY: stored}, folder / "best.ckpt")
    return folder / "best.ckpt"


def test_an_array_is_segmented() -> None:
    classes, places = scene()
    network = reader()
    found = network.predict(classes.astype(np.float64))
    assert {name: values.dtype for name, values in found.items()} == {
        "classes": np.uint8,
        "instances": np.int32,
        "probability": np.float32,
    }
    assert np.array_equal(found["classes"], classes)
    assert found["instances"].max() == 5 and np.array_equal(found["instances"] > 0, classes > 0)
    assert len({int(found["instances"][y, x]) for y, x, _ in places}) == 5
    # logits of the class and of its neighbours: 0 and -10, -20, ...
    assert found["probability"][0, 0] == pytest.approx(1 / (1 + np.exp(-10) + np.exp(-20) + np.exp(-30)), rel=1e-5)
    for mode in ("whole", "windows", "paper"):
        again = network.predict(classes.astype(np.float32), mode=mode, window_px=64, overlap_px=16, patch_px=64)
        assert all(np.array_equal(again[name], found[name]) for name in ("classes", "instances"))


@pytest.mark.parametrize("ratio", [0.5, 0.75, 2.0, 3.0])
def test_another_pixel_size_gives_the_same_cells(ratio: float, tmp_path: Path) -> None:
    """A file whose pixels are ``ratio`` times those of training shows the same field."""
    classes, places = scene()
    shape = [round(side / ratio) for side in classes.shape]
    at = [
        np.minimum(((np.arange(n) + 0.5) * ratio).astype(int), side - 1)
        for n, side in zip(shape, classes.shape, strict=True)
    ]
    seen = classes[at[0][:, None], at[1][None]]
    write_phase(tmp_path / "p.ome.tif", PhaseImage(seen.astype(np.float32), PIXEL_UM * ratio, WAVELENGTH_UM))
    network = reader()
    found = network.predict(tmp_path / "p.ome.tif")
    assert all(values.shape == seen.shape for values in found.values())
    sides = network.task.net.seen[0].shape[-2:]  # padded to the stride
    assert all(-8 < padded - side * ratio <= 8.5 for padded, side in zip(sides, shape, strict=True))
    assert (found["classes"] == seen).mean() > 0.97  # but for edges, where the phase goes through other classes
    for y, x, kind in places:
        cell = found["instances"][round(y / ratio), round(x / ratio)]
        assert cell > 0 and found["classes"][round(y / ratio), round(x / ratio)] == kind
        rows, columns = np.nonzero(found["instances"] == cell)
        middle = np.array([rows.mean() + 0.5, columns.mean() + 0.5]) * ratio
        assert middle == pytest.approx([y + 0.5, x + 0.5], abs=1.2 * max(1, ratio))
        assert len(rows) * ratio**2 == pytest.approx(np.pi * 18**2, rel=0.17)
    plain = reader(pixel_um=None)  # nothing known of the training's pixel: none is taken for another
    plain.predict(tmp_path / "p.ome.tif")
    assert tuple(plain.task.net.seen[0].shape[-2:]) == tuple(-(-side // 8) * 8 for side in shape)


def test_another_wavelength_is_the_same_path(tmp_path: Path) -> None:
    classes, _ = scene()
    network = reader()
    network.predict(classes.astype(np.float32))
    for given, wavelength in (("file", 0.532), ("argument", 0.8)):
        phase = (classes * (WAVELENGTH_UM / wavelength)).astype(np.float32)
        if given == "file":
            write_phase(tmp_path / "p.ome.tif", PhaseImage(phase, PIXEL_UM, wavelength))
            found = network.predict(tmp_path / "p.ome.tif")
        else:
            found = network.predict(phase, wavelength_um=wavelength)
        torch.testing.assert_close(network.task.net.seen[-1], network.task.net.seen[0], atol=1e-6, rtol=0)
        assert np.array_equal(found["classes"], classes)
    tifffile.imwrite(tmp_path / "bare.tif", classes.astype(np.float32))
    found = network.predict(tmp_path / "bare.tif", wavelength_um=WAVELENGTH_UM / 2)
    assert found["classes"].max() == 2  # of half the phase


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixel_um": 6.5}, r"a pixel of 6\.5 um, but the network was trained at 0\.144 um"),
        ({"pixel_um": 0.001}, "check pixel_um"),
        ({"pixel_um": -0.144}, "a pixel of -0.144 um"),
        ({"wavelength_um": 666.0}, r"a wavelength of 666 um, but the network was trained at 0\.666 um"),
        ({"wavelength_um": -0.5}, "check wavelength_um"),
        ({"mode": "tiles"}, "choose from auto"),
    ],
)
def test_slips_of_scale(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        reader().predict(np.zeros((60, 60), np.float32), **changes)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((40, 40), np.uint8), r"floats \[H, W\] in rad, not uint8 \[40, 40\].*hemolens reconstruct"),
        (np.zeros((2, 40, 40)), r"not float64 \[2, 40, 40\]"),
        (np.zeros((0, 40)), r"\[0, 40\]"),
        (np.full((40, 40), np.nan), "NaN or infinite"),
        ("nowhere.tif", "no such phase image"),
        ("nowhere.npy", "no readable array"),
    ],
)
def test_what_is_no_phase_image_is_refused(image: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        reader().predict(image)


def test_a_hologram_is_no_phase_image(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "h.png")
    with pytest.raises(UserError, match=r"h\.png is no phase image.*reconstruct holograms first"):
        reader().predict(tmp_path / "h.png")


def test_what_is_loaded_predicts_what_was_saved(checkpoint: Path) -> None:
    network = package.load(checkpoint, precision="32-true")
    assert isinstance(network, SegmentationPredictor)
    assert network.class_names == tuple(NAMES) and network.input_spec == SPEC
    assert network.task.class_weight.tolist() == [1, 2, 3, 4] and not network.task.training
    torch.manual_seed(0)
    net = instantiate(NET).eval()
    phase = np.random.default_rng(0).normal(1, 2, (61, 70)).astype(np.float32)
    # by hand: mirrored to 62 x 70 and scaled
    image = np.clip((np.pad(phase, [(0, 1), (0, 0)], mode="reflect") + 1) / 3 - 1, -1, 1)
    with torch.no_grad():
        expected = net(torch.from_numpy(image)[None, None])[0, :, :61]
    found = network.predict(phase)
    np.testing.assert_allclose(found["probability"], expected.softmax(0).amax(0), rtol=1e-5)
    assert np.array_equal(found["classes"], expected.argmax(0))
    other = package.load(checkpoint, precision="32-true", cells={"min_area_px": 1, "split": False})
    assert other.task.cell_settings == {"min_area_px": 1, "split": False}
    assert other.predict(phase)["instances"].max() > found["instances"].max()  # type: ignore[call-overload]


def test_settings_of_another_task_and_foreign_code_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a SegmentationTask, which has no nms_iou"):
        package.load(checkpoint, nms_iou=0.5)
    content = torch.load(checkpoint, weights_only=True)
    content[KEY]["config"]["net"] = {"_target_": "os.system", "command": "true"}
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"os\.system.*not part of hemolens"):
        package.load(tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}, "hemolens": Path("x")}, tmp_path / "pickle.ckpt")  # objects are not unpickled
    with pytest.raises(UserError, match="not a readable checkpoint"):
        package.load(tmp_path / "pickle.ckpt")


def phase_file(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_phase(path, PhaseImage(np.full((40, 48), value, np.float32), PIXEL_UM, WAVELENGTH_UM))
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 48), 90, np.uint8)).save(path)
    return path


def names(source: Path, **options: Any) -> list[tuple[str, bool]]:
    """Names of the inputs, and whether each is a hologram."""
    return [(item.name, item.job is not None) for item in list_inputs(source, **options)]


def test_what_a_folder_holds(tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    phase_file(mixed / "b.ome.tif")
    phase_file(mixed / "sub" / "a.ome.tif")
    np.save(mixed / "c.npy", np.zeros((40, 40), np.float32))
    picture(mixed / "d.png")  # beside phase images, pictures are something else
    tifffile.imwrite(mixed / "e.tif", np.zeros((40, 40), np.uint16))
    assert names(mixed) == [("b", False), ("c", False), ("sub/a", False)]
    assert [is_phase(mixed / name) for name in ("b.ome.tif", "c.npy", "d.png", "e.tif", "gone.npy", "sub")] == [
        *(True, True, False, False, False, False)
    ]
    assert names(mixed / "b.ome.tif") == [("b", False)] and names(mixed / "d.png") == [("d", True)]
    phase_file(mixed / "found" / "phase" / "x.ome.tif")
    assert names(mixed, output=mixed / "found") == names(mixed / "sub" / "..", output=mixed / "found")
    assert ("found/phase/x", False) in names(mixed) and len(names(mixed, output=mixed / "found")) == 3
    np.save(mixed / "sub" / "a.npy", np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"results of .*a\.npy and .*a\.ome\.tif would have one name"):
        list_inputs(mixed)
    with pytest.raises(UserError, match=r"input=.*nowhere"):
        list_inputs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        list_inputs(tmp_path / "empty")


def test_folders_of_reconstruct_and_of_simulate(tmp_path: Path) -> None:
    made = tmp_path / "phases"
    phase_file(made / "phase" / "holograms" / "f0.ome.tif")
    assert names(made) == [("phase/holograms/f0", False)]
    (made / "reconstruction.json").write_text("{}")
    assert names(made) == [("holograms/f0", False)]  # hemolens reconstruct wrote it
    simulated = tmp_path / "holograms"
    phase_file(simulated / "phase" / "f0.ome.tif")  # the truth
    picture(simulated / "holograms" / "f0.png")
    picture(simulated / "references" / "d1.png")
    (simulated / "manifest.csv").write_text("file,sample,reference\nholograms/f0.png,d1,references/d1.png\n")
    assert names(simulated) == [("holograms/f0", True)]
    (job,) = (item.job for item in list_inputs(simulated))
    assert job is not None and job.reference == simulated / "references" / "d1.png"
    assert names(simulated / "phase") == [("f0", False)]
    assert names(tmp_path / "phases", reference=simulated / "references" / "d1.png") == names(made)
    plain = tmp_path / "plain"
    picture(plain / "h.png")
    picture(plain / "empty.png")
    assert names(plain, reference=plain / "empty.png") == [("h", True)]
    assert names(plain, manifest="none") == [("empty", True), ("h", True)]
    phase_file(plain / "phase" / "x.ome.tif")
    (plain / "manifest.csv").write_text("file,sample\nphase/x.ome.tif,s1\n")  # a laboratory's own
    assert names(plain) == [("phase/x", False)]


def field(name: str, *, scale: bool = True, made: bool = False) -> SegmentedField:
    classes, _ = scene()
    maps = reader().predict(classes.astype(np.float32))
    known = (PIXEL_UM, WAVELENGTH_UM) if scale else (None, None)
    return SegmentedField(name, f"{name}.tif", PhaseImage(classes.astype(np.float32), *known), maps, made)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    fields = [field("day/one", made=True), field("two", scale=False)]
    counts = write_segmentations(tmp_path / "out", iter(fields), NAMES, info={"input": "x"}, alpha_um3_pg=0.18)
    assert counts == [{"a": 3, "b": 1, "c": 1}] * 2
    out = tmp_path / "out"
    for one in fields:
        assert np.array_equal(read_labels(out / "classes" / f"{one.name}.ome.tif"), one.maps["classes"])
        assert np.array_equal(read_labels(out / "instances" / f"{one.name}.ome.tif"), one.maps["instances"])
        assert (out / "overlays" / f"{one.name}.png").stat().st_size > 2000
    with tifffile.TiffFile(out / "classes" / "day" / "one.ome.tif") as tiff:
        assert 'PhysicalSizeX="0.144"' in str(tiff.ome_metadata)
    assert np.array_equal(read_phase(out / "phase" / "day" / "one.ome.tif").phase_rad, fields[0].image.phase_rad)
    assert not (out / "phase" / "two.ome.tif").exists()
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", *MEASURES] and len(rows) == 10
    assert [row["type"] for row in rows if row["file"] == "day/one.tif"].count("a") == 3
    for row in rows:
        at = round(float(row["y_px"])), round(float(row["x_px"]))
        assert fields[0].maps["instances"][at] == int(row["cell"])
        assert NAMES[fields[0].maps["classes"][at]] == row["type"]
        known = row["file"] == "day/one.tif"
        assert (row["dry_mass_pg"] != "") == (row["area_um2"] != "") == known
        if known:
            volume = float(row["mean_phase_rad"]) * WAVELENGTH_UM / (2 * np.pi) * float(row["area_um2"])
            assert float(row["dry_mass_pg"]) == pytest.approx(volume / 0.18, rel=1e-3)
    assert (out / "counts.csv").read_text().splitlines() == ["file,a,b,c,all", "day/one.tif,3,1,1,5", "two.tif,3,1,1,5"]
    assert json.loads((out / "prediction.json").read_text()) == {"class_names": NAMES, "input": "x"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Any:
        yield field("one")
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="gone"):
        write_segmentations(tmp_path / "out", broken(), NAMES, info={}, alpha_um3_pg=0.19, overlays=False)
    assert list(tmp_path.iterdir()) == []


def test_holograms_go_through_predict(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixel_um = HologramSettings().pixel_um
    y, x = np.mgrid[:150, :160] * pixel_um
    sphere = 3.4 * np.sqrt(np.maximum(1 - ((y - 9) ** 2 + (x - 11) ** 2) / 2.8**2, 0))
    made = form_hologram(sphere, tilt=(0.7, 1.2), curvature_rad=2.0, rng=0)
    other = form_hologram(sphere[::-1].copy(), tilt=(0.7, 1.2), curvature_rad=2.0, rng=1)
    for name, image in (("a", made.image), ("b", other.image), ("empty", made.reference)):
        picture(tmp_path / "bench" / f"{name}.png")
        Image.fromarray(image).save(tmp_path / "bench" / f"{name}.png")
    (tmp_path / "bench" / "bad.png").write_bytes(b"nothing")
    base = ["predict", f"ckpt_path={checkpoint}", "input=bench", "device=cpu", "precision=32-true"]
    scope = ["hologram.wavelength_um=0.666", f"hologram.pixel_um={pixel_um}", "hologram.numerical_aperture=0.75"]
    assert main([*base, "output=found", "hologram.reference=bench/empty.png", *scope]) == 1  # of the bad one
    said = capsys.readouterr()
    assert "2 images" in said.out and "bad.png" in said.err
    found = read_phase(tmp_path / "found" / "phase" / "a.ome.tif")
    assert np.sqrt(((found.phase_rad - made.phase_rad) ** 2).mean()) < 0.1
    assert (found.pixel_um, found.wavelength_um) == (pixel_um, 0.666)
    assert sorted(path.name for path in (tmp_path / "found" / "classes").iterdir()) == ["a.ome.tif", "b.ome.tif"]
    network: Any = package.load(checkpoint, precision="32-true")
    expected = network.predict(tmp_path / "found" / "phase" / "a.ome.tif")
    for place in ("classes", "instances"):
        assert np.array_equal(read_labels(tmp_path / "found" / place / "a.ome.tif"), expected[place])
    about = json.loads((tmp_path / "found" / "prediction.json").read_text())
    assert about["pipeline"] == "segmentation" and about["training_scale"] == SPEC.to_dict()
    # without its scale a hologram is refused in one line
    assert main([*base[:2], "input=bench/a.png", *base[3:], "output=x"]) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert "wavelength_um" in error[-1] and not (tmp_path / "x").exists()
    # phase images of the first run are an input of the second
    assert main([*base[:2], "input=found/phase", *base[3:], "output=again", "overlays=false"]) == 0
    again = read_labels(tmp_path / "again" / "classes" / "a.ome.tif")
    assert np.array_equal(again, expected["classes"]) and not (tmp_path / "again" / "overlays").exists()
    assert not (tmp_path / "again" / "phase").exists()


def test_a_real_hologram_goes_through_predict(
    checkpoint: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = shared_data / "holograms" / "pydhm" / "RBC.jpg"
    words = [f"input={source}", "output=found", "device=cpu", "precision=32-true", "segmentation.mode=windows"]
    words += ["segmentation.window_px=128", "segmentation.overlap_px=32"]
    scope = ["hologram.wavelength_um=0.633", "hologram.pixel_um=0.03", "hologram.degree=4", "hologram.radius=0.06"]
    assert main(["predict", f"ckpt_path={checkpoint}", *words, *scope]) == 0
    with Image.open(source) as image:
        size = image.height, image.width
    phase = read_phase(tmp_path / "found" / "phase" / "RBC.ome.tif")
    assert phase.phase_rad.shape == size and phase.pixel_um == 0.03
    assert np.percentile(phase.phase_rad, 99) == pytest.approx(3, abs=0.8)  # of the cells
    for place in ("classes", "instances"):
        assert read_labels(tmp_path / "found" / place / "RBC.ome.tif").shape == size
    with (tmp_path / "found" / "counts.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["RBC.jpg"]
