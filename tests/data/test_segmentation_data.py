"""Stored phase images, and the patches and fields that are cut from them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hemolens.data.patches import patch_corners
from hemolens.data.phase_images import (
    CLASSES,
    INSTANCES,
    PHASE,
    PhaseRecord,
    cell_counts,
    map_phase_image,
    store_phase_image,
    stored_record,
)
from hemolens.data.sampling import SampleKey
from hemolens.data.segmentation import FieldDataset, PatchAugmentation, PatchDataset, PhaseSpec, collate_segmentation
from hemolens.errors import UserError

SPEC = PhaseSpec(phase_limits_rad=(-1.0, 5.0))


def scene(height: int, width: int, kinds: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phase, classes and instances of discs; the phase is the class, so that it can be told from either."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    classes, instances = np.zeros((height, width), np.uint8), np.zeros((height, width), np.int32)
    for number, kind in enumerate(kinds, start=1):
        at = rng.uniform(10, (height - 10, width - 10))
        inside = (y - at[0]) ** 2 + (x - at[1]) ** 2 <= 8.2**2
        classes[inside], instances[inside] = kind, number
    return classes.astype(np.float32), classes, instances


def stored(folder: Path, name: str, size: tuple[int, int], kinds: list[int], **facts: Any) -> PhaseRecord:
    about = {"name": name, "sample": "s", "donor": "d", "day": None} | facts
    return store_phase_image(folder / f"{name}.npy", *scene(*size, kinds, seed=len(name)), about)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[PhaseRecord]:
    """Two images of many cells; for reading only."""
    folder = tmp_path_factory.mktemp("stored")
    return [stored(folder, "one", (120, 150), [1, 2, 3] * 4), stored(folder, "second", (100, 96), [1, 3, 3, 2] * 2)]


def dataset(records: list[PhaseRecord], **options: Any) -> PatchDataset:
    return PatchDataset(records, **({"spec": SPEC, "patch_px": 48, "mode": "grid"} | options))


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    phase = np.array([[0.0, 1.2344, -0.0006], [np.nan, np.inf, -np.inf], [99.0, -99.0, 32.767]])
    classes = np.array([[0, 3, 0], [0, 0, 0], [1, 1, 0]], np.uint8)
    instances = np.array([[0, 700, 0], [0, 0, 0], [2, 2, 0]], np.int32)
    facts = {"name": "x", "sample": "s1", "donor": "d2", "day": 40.0}
    record = store_phase_image(tmp_path / "x.npy", phase, classes, instances, facts)
    planes = map_phase_image(record.path)
    # whole thousandths of a radian, 0 for what is not finite, ends where 16 bits end
    assert planes[PHASE].tolist() == [[0, 1234, -1], [0, 0, 0], [32767, -32767, 32767]]
    assert np.array_equal(planes[CLASSES], classes) and np.array_equal(planes[INSTANCES], instances)
    expected = PhaseRecord("x", tmp_path / "x.npy", (3, 3), "s1", "d2", 40.0, ((1, 2.0, 0.5), (3, 0.0, 1.0)))
    assert record == expected == stored_record(tmp_path / "x.npy")
    assert cell_counts([record, record], 5) == [2, 0, 2, 0] and cell_counts([], 3) == [0, 0]


def test_an_image_is_whole_where_its_record_lies(tmp_path: Path) -> None:
    record = stored(tmp_path, "x", (60, 60), [1])
    content = record.path.with_suffix(".json").read_text()
    record.path.with_suffix(".json").write_text(content[:-9])
    assert stored_record(record.path) is None
    record.path.with_suffix(".json").write_text(content)
    assert stored_record(record.path) == record
    record.path.write_bytes(record.path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"x\.npy: not a stored phase image.*remove it"):
        dataset([record])[0]
    np.save(record.path, np.zeros((60, 60)))
    with pytest.raises(UserError, match="not a stored phase image"):
        map_phase_image(record.path)
    record.path.unlink()
    assert stored_record(record.path) is None
    with pytest.raises(UserError, match="32,767"):
        none = np.zeros((4, 4), np.uint8)
        store_phase_image(tmp_path / "y.npy", none * 1.0, none, np.full((4, 4), 40_000), {"name": "y"})
    assert not (tmp_path / "y.npy").exists()


def test_scaling_of_phase() -> None:
    found = SPEC.scaled(np.array([[-7.0, -1.0, 0.5, 2.0, 5.0, 9.0]]))
    assert found.shape == (1, 1, 6) and found.dtype == torch.float32
    assert found[0, 0].tolist() == [-1.0, -1.0, -0.5, 0.0, 1.0, 1.0]
    spec = PhaseSpec(phase_limits_rad=(0.0, 4.0), pixel_um=0.144, wavelength_um=0.666)
    assert PhaseSpec.from_dict(spec.to_dict()) == spec
    assert spec.to_dict() == {"phase_limits_rad": [0.0, 4.0], "pixel_um": 0.144, "wavelength_um": 0.666}
    with pytest.raises(UserError, match="another version"):
        PhaseSpec.from_dict({"phase_limits_rad": [0, 1]})
    for wrong, words in (
        ({"phase_limits_rad": (5.0, -1.0)}, "lowest, highest"),
        ({"pixel_um": 0.0}, "pixel_um=0.0"),
        ({"wavelength_um": -0.6}, "wavelength_um=-0.6"),
    ):
        with pytest.raises(UserError, match=words):
            replace(SPEC, **wrong)


@pytest.mark.parametrize("mode", ["grid", "paper_3x3", "centred_3x3"])
def test_fixed_patches_are_windows_of_the_images(records: list[PhaseRecord], mode: str) -> None:
    side = 32
    data = dataset(records, mode=mode, patch_px=side)
    places = [(record, corner) for record in records for corner in patch_corners(record.size, side, mode=mode)]
    assert len(data) == len(places)
    for index, (record, (y, x)) in enumerate(places):
        sample, planes = data[SampleKey(3, index)], map_phase_image(record.path)
        window = np.s_[y : y + side, x : x + side]
        assert np.array_equal(sample["classes"], planes[CLASSES][window])
        assert torch.equal(sample["image"], SPEC.scaled(planes[PHASE][window] * np.float32(0.001)))
        assert (sample["image_id"], sample["origin"]) == (record.name, "acquired")


def test_random_patches_depend_on_seed_epoch_and_index_alone(records: list[PhaseRecord]) -> None:
    options = {"mode": "random", "patches_per_image": 7, "augmentation": PatchAugmentation(rotate90=0.5, rotate=0.3)}
    data = dataset(records, seed=5, **options)
    assert len(data) == 14
    keys = [SampleKey(epoch, index) for epoch in range(2) for index in range(14)]
    first = {key: data[key] for key in keys}
    for key in reversed(keys):  # whatever was drawn before
        assert torch.equal(data[key]["image"], first[key]["image"])
        assert torch.equal(data[key]["classes"], first[key]["classes"])
        assert first[key]["image_id"] == records[key.index // 7].name
    assert all(not torch.equal(first[SampleKey(0, i)]["image"], first[SampleKey(1, i)]["image"]) for i in range(14))
    other = dataset(records, seed=6, **options)
    assert sum(torch.equal(other[key]["image"], first[key]["image"]) for key in keys) == 0
    assert torch.equal(data[3]["image"], first[SampleKey(0, 3)]["image"])  # a plain index is of epoch 0


def eroded(classes: Tensor, reach: int = 2) -> Tensor:
    """Pixels whose neighbours are all of their class, so that linear interpolation gives the class's phase."""
    windows = classes.unfold(0, 2 * reach + 1, 1).unfold(1, 2 * reach + 1, 1)
    same = torch.zeros_like(classes, dtype=torch.bool)
    same[reach:-reach, reach:-reach] = windows.amin((-2, -1)) == windows.amax((-2, -1))
    return same


@pytest.mark.parametrize(
    "augmentation",
    [
        {"horizontal_flip": 1.0},
        {"vertical_flip": 1.0},
        {"rotate90": 1.0},
        {"rotate": 1.0},
        {"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotate90": 0.75, "rotate": 0.5},
    ],
    ids=lambda value: "_".join(value),
)
def test_phase_and_mask_are_moved_together(records: list[PhaseRecord], augmentation: dict[str, float]) -> None:
    data = dataset(records, augmentation=PatchAugmentation(**augmentation))
    plain = dataset(records)
    moved, checked = 0, 0
    for index in range(len(data)):
        sample, before = data[index], plain[index]
        inside = eroded(sample["classes"])
        phase = (sample["image"][0] + 1) * 3 - 1  # of limits -1 and 5
        assert (phase - sample["classes"])[inside].abs().max() < 1e-3
        checked += int((inside & (sample["classes"] > 0)).sum())
        moved += not torch.equal(sample["classes"], before["classes"])
        if "rotate" not in augmentation:  # an element of the square's group: the pixels are the same ones
            assert torch.equal(sample["classes"].flatten().bincount(), before["classes"].flatten().bincount())
        if len(augmentation) == 1 and "rotate" not in augmentation:
            turned = {
                "horizontal_flip": [before["classes"].flip(1)],
                "vertical_flip": [before["classes"].flip(0)],
                "rotate90": [torch.rot90(before["classes"], turns) for turns in (1, 2, 3)],
            }[next(iter(augmentation))]
            assert any(torch.equal(sample["classes"], one) for one in turned)
    assert moved > len(data) / 2
    assert checked > 1000


def test_a_turn_by_any_angle_keeps_the_middle_and_distances(tmp_path: Path) -> None:
    side = 64
    y, x = np.mgrid[:160, :160]
    # around the middle of the patch at (30, 41): rings of classes, and a spot beside it that moves
    radius = np.hypot(y - (30 + 31.5), x - (41 + 31.5))
    classes = ((radius < 24) * 1 + (radius < 12) * 1).astype(np.uint8)
    classes[radius > 70] = 3  # beyond the patch at any angle
    phase = np.where(classes == 1, 1 + (x - x.mean()) / 400, classes)
    store_phase_image(tmp_path / "r.npy", phase, classes, (classes > 0).astype(np.int32), {"name": "r"})
    record = stored_record(tmp_path / "r.npy")
    assert record is not None
    data = dataset([record], patch_px=side, augmentation=PatchAugmentation(rotate=1.0))
    angles = []
    for epoch in range(4):
        data._places = [(0, (30, 41))]
        sample = data[SampleKey(epoch, 0)]
        expected = classes[30 : 30 + side, 41 : 41 + side]
        wrong = sample["classes"].numpy() != expected
        assert (np.abs((radius[30:94, 41:105][wrong] + 6) % 12 - 6) < 1).all()  # at edges alone
        assert (sample["classes"] != 3).all()
        ring = np.abs(radius[30:94, 41:105] - 18) < 3
        values = (sample["image"][0].numpy()[ring] + 1) * 3 - 1
        dy, dx = (grid[30:94, 41:105][ring] - middle for grid, middle in ((y, 61.5), (x, 72.5)))
        slope = np.linalg.lstsq(np.stack([dy, dx, np.ones_like(dx)], 1), values, rcond=None)[0]
        assert math.hypot(slope[0], slope[1]) == pytest.approx(1 / 400, rel=0.02)  # neither stretched nor shrunk
        angles.append(math.atan2(slope[0], slope[1]))
    assert np.ptp(angles) > 0.5


def test_balanced_patches_show_each_type_equally_often(tmp_path: Path) -> None:
    # each type alone in its images, so that the image tells which type was drawn
    common = [stored(tmp_path, f"common{number}", (80, 80), [1] * 6) for number in range(9)]
    rare = [stored(tmp_path, "rare_one", (80, 80), [2]), stored(tmp_path, "rare_two", (80, 80), [3, 3])]
    options: dict[str, Any] = {"mode": "random", "patches_per_image": 60, "patch_px": 40}
    plain = dataset([*common, *rare], **options)
    assert len(plain) == 660
    data = dataset([*common, *rare], balance_classes=True, **options)
    assert len(data) == 660  # the length of an epoch stays
    samples = [data[index] for index in range(660)]
    shares = [np.mean([sample["image_id"].startswith(name) for sample in samples]) for name in ("common", "rare_one")]
    assert shares == pytest.approx([1 / 3, 1 / 3], abs=0.06)  # 3.3 standard deviations
    kinds = {"common": 1, "rare_o": 2, "rare_t": 3}
    for sample in samples:  # around a cell: its middle lies inside
        assert int((sample["classes"] == kinds[sample["image_id"][:6]]).sum()) > 40
    no_cells = stored(tmp_path, "none", (80, 80), [])
    assert dataset([no_cells], balance_classes=True, **options)[0]["classes"].max() == 0


def test_synthetic_patches_come_after_the_others_in_turn(records: list[PhaseRecord], tmp_path: Path) -> None:
    made = [stored(tmp_path, f"gan{number}", (48, 48), [1, 2]) for number in range(3)]
    made.append(stored(tmp_path, "large", (60, 70), [3] * 5))
    own = len(dataset(records))
    data = dataset(records, synthetic=made, synthetic_count=6)
    assert len(data) == own + 6
    for epoch in range(3):
        late = [data[SampleKey(epoch, own + number)] for number in range(6)]
        names = [made[(epoch * 6 + number) % 4].name for number in range(6)]
        assert [sample["image_id"] for sample in late] == names
        assert {sample["origin"] for sample in late} == {"synthetic"}
    large = map_phase_image(made[3].path)[CLASSES]
    windows = {large[y : y + 48, x : x + 48].tobytes(): (y, x) for y in range(13) for x in range(23)}
    places = [
        windows[data[SampleKey(4 * turn, own + 3)]["classes"].numpy().astype(large.dtype).tobytes()]
        for turn in range(60)
    ]
    for axis, last in ((0, 12), (1, 22)):  # anywhere, so that all of it is trained on
        assert min(place[axis] for place in places) <= 1 and max(place[axis] for place in places) >= last - 1


def test_fields_are_whole(records: list[PhaseRecord]) -> None:
    data = FieldDataset(records, spec=SPEC)
    sample, planes = data[1], map_phase_image(records[1].path)
    assert np.array_equal(sample["classes"], planes[CLASSES]) and sample["classes"].dtype == torch.int64
    assert np.array_equal(sample["instances"], planes[INSTANCES]) and sample["instances"].dtype == torch.int32
    assert torch.equal(sample["image"], SPEC.scaled(planes[PHASE] * np.float32(0.001)))
    batch = collate_segmentation([sample])
    assert {key: getattr(value, "shape", value) for key, value in batch.items()} == {
        "images": (1, 1, 100, 96),
        "classes": (1, 100, 96),
        "instances": (1, 100, 96),
        "image_ids": ["second"],
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_px": 97}, r"second is 100×96 px: choose data\.patch_px of at most 96"),
        ({"balance_classes": True}, r"needs data\.patches=random, not grid"),
        ({"mode": "paper_3x3", "patch_px": 64}, "too small for paper_3x3"),
        ({"mode": "tiles"}, "choose from random"),
    ],
)
def test_slips_of_patches(records: list[PhaseRecord], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataset(records, **options)


def test_slips_of_augmentation() -> None:
    with pytest.raises(UserError, match=r"augment\.rotate=1\.5"):
        PatchAugmentation(rotate=1.5)
    with pytest.raises(UserError, match="augment has no key blur, zoom: choose from horizontal_flip"):
        PatchAugmentation.from_config({"zoom": 1, "blur": 0.2, "rotate": 0.1})
    assert PatchAugmentation.from_config(None) == PatchAugmentation()


def test_an_uneven_background_changes_the_phase_alone(records: list[PhaseRecord]) -> None:
    """Its standard deviation is uniform up to the limit, so that the mean square is a third of the limit's."""
    plain = dataset(records)
    uneven = dataset(records, augmentation=PatchAugmentation(background=1.0, background_rad=0.4))
    squares = []
    for index in range(len(plain)):
        for epoch in range(40):
            before, after = plain[SampleKey(0, index)], uneven[SampleKey(epoch, index)]
            assert torch.equal(before["classes"], after["classes"])
            inside = before["image"] < 0.5  # nothing is cut off there
            squares.append(float(((after["image"] - before["image"])[inside] * 3).pow(2).mean()))
    # bumps between the points of a coarse grid are a little lower than at them
    assert 0.5 * 0.4**2 / 3 < np.mean(squares) < 1.2 * 0.4**2 / 3
    assert max(squares) > 4 * np.mean(squares) / 2
    with pytest.raises(UserError, match=r"augment\.background_rad=-0\.1"):
        PatchAugmentation(background_rad=-0.1)
