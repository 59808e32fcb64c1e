"""Turned copies of synthetic pairs: phase and mask stay together, and a stopped call goes on."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from hemolens.data.phase_folder import find_pairs, store_pairs
from hemolens.errors import UserError
from hemolens.inference.pair_augmentation import PairCopy, augment_pairs, plan_copies, turn_pair
from hemolens.io.labels import read_labels, write_labels
from hemolens.io.manifest import read_manifest
from hemolens.io.phase import PhaseImage, read_phase, write_phase

NAMES = ["background", "a", "b", "c"]
SIZE = (60, 64)
SOURCES = ["x", "y", "z"]


def field(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pair without any symmetry: three discs of 2 rad in classes of their own; the phase is half of it at an edge."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    phase, classes = np.zeros(SIZE), np.zeros(SIZE, np.uint8)
    for row, column, radius, kind in ((20, 18, 7, 1), (22 + seed, 44, 9, 2), (46, 26, 5, 3)):
        away = np.hypot(y - row, x - column)
        classes[away <= radius] = kind
        phase = np.maximum(phase, 2 / (1 + np.exp(2 * (away - radius))))
    return phase.astype(np.float32), classes


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    folder = tmp_path / "sampled"
    for seed, name in enumerate(SOURCES):
        phase, classes = field(seed)
        image = PhaseImage(phase, pixel_um=0.144, wavelength_um=0.666, medium_index=1.334)
        write_phase(folder / "phase" / f"{name}.ome.tif", image)
        write_labels(folder / "classes" / f"{name}.ome.tif", classes, pixel_um=0.144)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The pixels of all files: TIFFs hold an identifier that differs from one writing to the next."""
    found = {}
    for path in sorted(folder.rglob("*.tif")):
        pixels = read_phase(path).phase_rad if path.parent.name == "phase" else read_labels(path)
        found[path.relative_to(folder).as_posix()] = pixels.tobytes()
    return found


def times(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.tif")}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_quarter_turns_are_exact(turns: int, flip: bool) -> None:
    phase, classes = (part[:, :60] for part in field())
    turned, mask = turn_pair(phase, classes, 90.0 * turns, flip=flip)
    seen = [part[:, ::-1] if flip else part for part in (phase, classes)]
    assert np.array_equal(mask, np.rot90(seen[1], turns)) and mask.dtype == np.uint8
    assert np.abs(turned - np.rot90(seen[0], turns)).max() < 1e-4 and turned.dtype == np.float32


@pytest.mark.parametrize("angle", [7.0, 33.3, 101.0, 222.2, 315.0])
@pytest.mark.parametrize("flip", [False, True])
def test_phase_and_mask_stay_together_at_any_angle(angle: float, flip: bool) -> None:
    phase, classes = field()
    turned, mask = turn_pair(phase, classes, angle, flip=flip)
    assert turned.shape == mask.shape == SIZE and set(np.unique(mask)) <= {0, 1, 2, 3}
    assert ((phase >= 1) == (classes > 0)).all()
    assert ((turned > 1) == (mask > 0)).mean() > 0.98  # apart from half pixels along the edges
    # where the discs go, by the formula: about the middle, counterclockwise with y upwards
    middle = (np.array(SIZE) - 1) / 2
    for row, column, kind in ((20, 18, 1), (22, 44, 2), (46, 26, 3)):
        up, right = middle[0] - row, (column - middle[1]) * (-1 if flip else 1)
        direction = complex(right, up) * np.exp(1j * np.deg2rad(angle))
        y, x = middle[0] - direction.imag, middle[1] + direction.real
        if 1 < y < SIZE[0] - 2 and 1 < x < SIZE[1] - 2:
            assert mask[round(y), round(x)] == kind
            assert turned[round(y), round(x)] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("angle", [10.0, 44.0, 200.0])  # at 45 degrees some pixels lie halfway between two
def test_what_comes_from_outside_is_the_mirror_image(angle: float) -> None:
    phase, classes = field()
    phase[:9, :], classes[:9, :] = 3.0, 2  # a strip along the upper border
    around = [np.pad(part, 30, mode="symmetric") for part in (phase, classes)]
    larger = turn_pair(*around, angle, flip=False)  # type: ignore[call-arg]
    turned, mask = turn_pair(phase, classes, angle, flip=False)
    inner = np.s_[30:-30, 30:-30]
    assert np.array_equal(mask, larger[1][inner])
    assert np.abs(turned - larger[0][inner]).max() < 1e-3


def test_turning_keeps_noise() -> None:
    """Linear interpolation would take away half of the variance."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.fft2(rng.standard_normal((96, 96)))
    spectrum[np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96))) > 0.25] = 0  # as optics band-limit it
    noise = np.fft.ifft2(spectrum).real.astype(np.float32)
    turned, _ = turn_pair(noise, np.zeros((96, 96), np.uint8), 31.0, flip=False)
    assert turned[20:-20, 20:-20].var() / noise[20:-20, 20:-20].var() == pytest.approx(1, abs=0.1)


def test_a_plan_takes_each_pair_equally_often_and_first_as_it_is() -> None:
    plan = plan_copies(SOURCES, count=11, seed=0)
    assert [copy.source for copy in plan] == ["x", "y", "z"] * 3 + ["x", "y"]
    assert plan[:3] == [PairCopy(f"{name}_r00", name, 0.0, False) for name in SOURCES]
    assert [copy.name for copy in plan[3:7]] == ["x_r01", "y_r01", "z_r01", "x_r02"]
    many = plan_copies(SOURCES, count=3000, seed=0)[3:]
    angles = np.array([copy.angle_deg for copy in many])
    assert np.histogram(angles, 4, (0, 360))[0] / len(many) == pytest.approx([0.25] * 4, abs=0.03)
    assert np.mean([copy.flip for copy in many]) == pytest.approx(0.5, abs=0.03)
    assert len(set(angles)) > 2900


def test_a_copy_depends_on_the_seed_and_its_source_alone() -> None:
    plan = {copy.name: copy for copy in plan_copies(SOURCES, count=12, seed=3)}
    other = {copy.name: copy for copy in plan_copies(["w", "z", "x"], count=30, seed=3)}
    assert all(other[name] == plan[name] for name in plan if not name.startswith("y"))
    reseeded = plan_copies(SOURCES, count=12, seed=4)
    assert all(copy != plan[copy.name] for copy in reseeded[3:])


@pytest.mark.parametrize(
    ("accepted", "count", "seed", "message"),
    [
        ([], 4, 0, "no pair is accepted"),
        (["x", "y", "x"], 4, 0, "x is accepted twice"),
        (SOURCES, 2, 0, r"augment\.count=2 leaves out some of the 3"),
        (SOURCES, 4, -1, "seed=-1"),
    ],
)
def test_wrong_arguments(sampled: Path, accepted: list[str], count: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        augment_pairs(sampled, accepted, sampled.parent / "out", count=count, seed=seed)
    assert not (sampled.parent / "out").exists()


def test_copies_are_a_folder_that_training_reads(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "augmented"
    report = augment_pairs(sampled, SOURCES, output, count=7, seed=2)
    assert (report.made, report.kept, report.removed) == (7, 0, 0)
    plan = plan_copies(SOURCES, count=7, seed=2)
    for copy in plan:
        source = read_phase(sampled / "phase" / f"{copy.source}.ome.tif")
        image = read_phase(output / "phase" / f"{copy.name}.ome.tif")
        assert (image.pixel_um, image.wavelength_um, image.medium_index) == (0.144, 0.666, 1.334)
        mask = read_labels(output / "classes" / f"{copy.name}.ome.tif")
        expected = turn_pair(source.phase_rad, field(SOURCES.index(copy.source))[1], copy.angle_deg, flip=copy.flip)
        assert np.array_equal(image.phase_rad, expected[0]) and np.array_equal(mask, expected[1])
        assert mask.dtype == np.uint8
        with tifffile.TiffFile(output / "classes" / f"{copy.name}.ome.tif") as tiff:
            assert 'PhysicalSizeX="0.144"' in (tiff.ome_metadata or "")
    assert np.array_equal(read_phase(output / "phase" / "y_r00.ome.tif").phase_rad, field(1)[0])

    rows = read_manifest(output / "manifest.csv")
    with (output / "manifest.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["file", "sample", "source", "angle_deg", "flip"]
    pairs, bare = find_pairs(output, output / "phase", rows)
    assert bare == [] and [pair.name for pair in pairs] == sorted(copy.name for copy in plan)
    assert find_pairs(output, output / "phase")[0] == [
        type(pair)(pair.name, pair.phase, pair.classes, None, {}) for pair in pairs
    ]
    for pair in pairs:
        copy = next(copy for copy in plan if copy.name == pair.name)
        assert (pair.row["sample"], pair.row["source"]) == (copy.source, copy.source)
        assert (float(pair.row["angle_deg"]), pair.row["flip"]) == (copy.angle_deg, str(int(copy.flip)))
    records, scale = store_pairs(pairs, tmp_path / "cache", NAMES)
    assert (scale.pixel_um, scale.wavelength_um) == (0.144, 0.666)
    assert {record.sample for record in records} == set(SOURCES)
    assert sorted(kind for kind, _, _ in records[0].cells) == [1, 2, 3]


def test_the_same_seed_makes_the_same_copies_and_another_does_not(sampled: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        augment_pairs(sampled, SOURCES, tmp_path / name, count=6, seed=seed)
    one, two, three = (content(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two and len(one) == 12
    assert {name for name in one if one[name] == three[name]} == {name for name in one if "_r00" in name}


def test_a_stopped_call_goes_on(sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augment_pairs(sampled, SOURCES, tmp_path / "whole", count=9)
    output = tmp_path / "augmented"
    calls = 0

    def stops(*given: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        write_labels(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("hemolens.inference.pair_augmentation.write_labels", stops)
    with pytest.raises(KeyboardInterrupt):
        augment_pairs(sampled, SOURCES, output, count=9)
    monkeypatch.undo()
    assert not (output / "manifest.csv").exists()
    (output / "phase" / ".x_r0-abc.tif").write_bytes(b"half")  # as a killed call leaves it
    before = times(output)
    assert len(before) == 4 + 5 + 1  # the fifth has no mask
    report = augment_pairs(sampled, SOURCES, output, count=9)
    assert (report.made, report.kept, report.removed) == (5, 4, 0)
    kept = {name for name, moment in times(output).items() if before.get(name) == moment}
    assert len(kept) == 8 and "phase/y_r01.ome.tif" not in kept
    assert content(output) == content(tmp_path / "whole")
    assert (output / "manifest.csv").read_text() == (tmp_path / "whole" / "manifest.csv").read_text()
    before = times(output)
    assert augment_pairs(sampled, SOURCES, output, count=9).kept == 9
    assert times(output) == before


def test_after_another_choice_only_what_changed_is_made(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "augmented"
    augment_pairs(sampled, ["x", "y"], output, count=6)
    before = times(output)
    report = augment_pairs(sampled, ["z", "y"], output, count=6)
    assert (report.made, report.kept, report.removed) == (3, 3, 3)
    after = times(output)
    assert {name.split("/")[1][0] for name in after} == {"y", "z"} and len(after) == 12
    assert all(before[name] == after[name] for name in after if "/y" in name)
    augment_pairs(sampled, ["z", "y"], tmp_path / "new", count=6)
    assert content(output) == content(tmp_path / "new")
    # a source that was sampled again
    phase, _ = field(9)
    target = sampled / "phase" / "y.ome.tif"
    write_phase(target, PhaseImage(phase, pixel_um=0.144), overwrite=True)
    os.utime(target, ns=(max(after.values()) + 10**9,) * 2)
    assert augment_pairs(sampled, ["z", "y"], output, count=6).made == 3
    assert np.array_equal(read_phase(output / "phase" / "y_r00.ome.tif").phase_rad, phase)


def test_other_peoples_files_are_left_alone(sampled: Path, tmp_path: Path) -> None:
    output = tmp_path / "augmented"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and holds other files: choose a new output"):
        augment_pairs(sampled, SOURCES, output, count=3)
    (output / "notes.txt").unlink()
    augment_pairs(sampled, SOURCES, output, count=3, seed=5)
    with pytest.raises(UserError, match="was begun with other settings or another version: choose a new output"):
        augment_pairs(sampled, SOURCES, output, count=3, seed=6)
    mine = output / "phase" / "mine.ome.tif"
    write_phase(mine, PhaseImage(field()[0]))
    with pytest.raises(UserError, match=r"mine\.ome\.tif is none of the copies: move it out"):
        augment_pairs(sampled, ["x"], output, count=3, seed=5)
    assert mine.is_file() and (output / "phase" / "y_r00.ome.tif").is_file()


def test_unusable_sources_are_named(sampled: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"w\.ome\.tif: no such phase image"):
        augment_pairs(sampled, ["x", "w"], tmp_path / "out", count=4)
    write_labels(sampled / "classes" / "x.ome.tif", field()[1][:50], overwrite=True)
    with pytest.raises(UserError, match="differ in size: sample the pair again"):
        augment_pairs(sampled, ["x"], tmp_path / "other", count=2)
    phase, _ = field()
    phase[3, 3] = np.nan  # which would spread over the whole image
    write_phase(sampled / "phase" / "y.ome.tif", PhaseImage(phase), overwrite=True)
    with pytest.raises(UserError, match=r"y\.ome\.tif holds values that are not finite: set accept of it to 0"):
        augment_pairs(sampled, ["y"], tmp_path / "third", count=1)
