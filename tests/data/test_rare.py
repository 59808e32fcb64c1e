"""Rare classes: repeat factors by hand, their sampler, and what a pasted cell looks like."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hemolens.data.planes import Planes, planes_to_arrays
from hemolens.data.rare import MARGIN_PX, CellBank, covered, field_shares, repeat_factors
from hemolens.data.sampling import RepeatSampler, ResumableDataLoader, SampleKey
from hemolens.data.simulation.truth import save_arrays
from hemolens.data.tomograms import TomogramDataset
from hemolens.data.transforms import DetectionTransform
from hemolens.data.views import ProjectionRecord, TomogramView

LABELS = [np.array(of_field, np.int64) for of_field in ([0, 0, 1], [0], [0, 2, 1], [], [0, 0], [0], [0, 1], [0, 1])]


def test_repeat_factors_by_hand() -> None:
    """Eight fields: class 0 in seven, 1 in four, 2 in one, 3 in none."""
    assert field_shares(LABELS, 4).tolist() == [7 / 8, 4 / 8, 1 / 8, 0]
    assert repeat_factors(LABELS, 4, 0.5) == pytest.approx([1, 1, 2, 1, 1, 1, 1, 1])  # sqrt(0.5 / 0.125)
    most = repeat_factors(LABELS, 4, 1.0)
    one, two, three = math.sqrt(8 / 7), math.sqrt(2), math.sqrt(8)
    assert most == pytest.approx([two, one, three, 1, one, one, two, two])
    assert repeat_factors(LABELS, 4, 0.001).tolist() == [1] * 8


def keys_of(sampler: RepeatSampler, epoch: int) -> list[SampleKey]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_samples_come_as_often_as_their_factor() -> None:
    factors = np.array([1.0, 2.5, 1.0, 1.25, 1.0, 3.25])  # 10 in all
    sampler = RepeatSampler(factors, seed=4)
    assert len(sampler) == 10
    counts = np.zeros(6)
    for epoch in range(400):
        keys = keys_of(sampler, epoch)
        assert len(keys) == len(set(keys)) == 10  # copies have numbers of their own
        found = np.bincount([key.index % 6 for key in keys], minlength=6)
        assert ((found == np.floor(factors)) | (found == np.ceil(factors))).all()
        assert {key.index // 6 for key in keys if key.index % 6 == 5} == set(range(found[5]))
        counts += found
    assert counts / 400 == pytest.approx(factors, abs=0.08)  # 3 sd of a coin over 400 epochs
    again = RepeatSampler(factors, seed=4)
    assert keys_of(again, 7) == keys_of(sampler, 7) != keys_of(sampler, 8)
    assert keys_of(RepeatSampler(factors, seed=5), 7) != keys_of(sampler, 7)


def test_the_sum_is_rounded_up_and_plain_factors_change_nothing() -> None:
    assert len(RepeatSampler(np.array([1.0, 1.3, 1.0]))) == 4
    assert all(len(keys_of(RepeatSampler(np.array([1.0, 1.3, 1.0])), epoch)) == 4 for epoch in range(50))
    plain = RepeatSampler(np.ones(5), seed=1)
    assert sorted(key.index for key in keys_of(plain, 3)) == [0, 1, 2, 3, 4]


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.tensor(key)


def test_a_stopped_epoch_goes_on_with_the_same_copies() -> None:
    def loader() -> ResumableDataLoader:
        return ResumableDataLoader(
            Numbers(), sampler=RepeatSampler(np.array([1.0, 2.5, 1.0, 1.5]), seed=2), batch_size=2
        )

    first = loader()
    first.sampler.set_epoch(3)
    whole = [batch.tolist() for batch in first]
    assert len(whole) == 3
    iterator = iter(first)
    next(iterator)
    other = loader()
    other.load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in other] == whole[1:]


SIDE = 96
CELL, NEIGHBOUR = [40.0, 30.0, 60.0, 54.0], [4.0, 4.0, 20.0, 24.0]


def record_of(folder: Path, name: str, top: float, boxes: list, labels: list) -> ProjectionRecord:
    """A field of RI 1.34 with cells of RI 1.36 that fill their boxes, and one pixel of RI ``top``."""
    picture = np.full((SIDE, SIDE), 1.34)
    for x0, y0, x1, y1 in np.array(boxes, int).reshape(-1, 4):
        picture[y0:y1, x0:x1] = 1.36
    picture[0, 0], picture[0, 1] = top, 1.33
    stored = np.rint((picture - 1.33) / (top - 1.33) * 65535).astype(np.uint16)
    ranges = np.array([[1.33, top]] * 3)
    save_arrays(folder / f"{name}.npz", planes_to_arrays(Planes(np.stack([stored] * 3), ranges, (1.33, top), 1.337)))
    return ProjectionRecord(
        name, folder / f"{name}.npz", np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
    )


@pytest.fixture
def records(tmp_path: Path) -> list[ProjectionRecord]:
    """The first has the only cell of class 1; the others have another stretch and a cell of class 0."""
    first = record_of(tmp_path, "a", 1.37, [CELL, NEIGHBOUR], [1, 0])
    return [first, *(record_of(tmp_path, name, 1.41, [NEIGHBOUR], [0]) for name in "bcd")]


def dataset_of(records: list[ProjectionRecord], bank: CellBank | None, **options: object) -> TomogramDataset:
    return TomogramDataset(records, transform=DetectionTransform(), view=TomogramView(), bank=bank, pastes=1, **options)


def test_pasted_cell_is_as_bright_as_at_home_and_has_its_box(records: list[ProjectionRecord]) -> None:
    bank = CellBank.of(records, 2, 0.5)
    assert (bank.fields.tolist(), bank.labels.tolist(), bank.boxes.tolist()) == ([0], [1], [CELL])
    plain, pasted = dataset_of(records, None), dataset_of(records, bank)
    places = set()
    for epoch, index in itertools.product(range(5), (1, 2, 3)):
        key = SampleKey(epoch, index)
        before, after = plain[key], pasted[key]
        assert after["target"]["labels"].tolist() == [0, 1]
        box = after["target"]["boxes"][1]
        assert (box[2:] - box[:2]).tolist() == [20.0, 24.0]
        assert float(covered(box, before["target"]["boxes"])) <= 0.1
        x0, y0, x1, y1 = (int(value) for value in box)
        # the ellipse around box and margin, pixel by pixel
        expected = before["image"].clone()
        for y, x in itertools.product(range(y0 - MARGIN_PX, y1 + MARGIN_PX), range(x0 - MARGIN_PX, x1 + MARGIN_PX)):
            across, down = (x + 0.5 - (x0 + x1) / 2) / (10 + MARGIN_PX), (y + 0.5 - (y0 + y1) / 2) / (12 + MARGIN_PX)
            inside = x0 <= x < x1 and y0 <= y < y1
            if across**2 + down**2 <= 1:
                index_here = 1.36 if inside else 1.34
                expected[0, y, x] = max(float(expected[0, y, x]), (index_here - 1.33) / (1.41 - 1.33))
        assert torch.allclose(after["image"], expected, atol=1e-4)
        assert torch.equal(pasted[key]["image"], after["image"])  # from (seed, epoch, index) alone
        places.add((x0, y0))
    assert len(places) > 5
    assert torch.equal(pasted[SampleKey(0, 0)]["image"], plain[SampleKey(0, 0)]["image"])  # nothing from itself


def test_neighbours_leave_no_slivers(tmp_path: Path) -> None:
    """A neighbour one pixel below the cell reaches into the margin, and is not copied with it."""
    home = record_of(tmp_path, "a", 1.41, [CELL, [42.0, 55.0, 58.0, 75.0]], [1, 0])
    others = [record_of(tmp_path, name, 1.41, [NEIGHBOUR], [0]) for name in "bcd"]
    bank = CellBank.of([home, *others], 2, 0.5)
    assert bank.boxes.tolist() == [CELL]
    records = [home, *others]
    for epoch in range(5):
        before, after = (dataset_of(records, paste)[SampleKey(epoch, 1)] for paste in (None, bank))
        x0, y0, x1, y1 = after["target"]["boxes"][1].int().tolist()
        brighter = after["image"][0] > before["image"][0] + 0.1
        assert brighter[y0:y1, x0:x1].float().mean() > 0.75  # pi / 4 of the box and some of its corners
        brighter[y0:y1, x0:x1] = False
        assert not brighter.any()


def test_no_place_no_copy(records: list[ProjectionRecord]) -> None:
    bank = CellBank.of(records, 2, 0.5)
    full = record_of(records[1].path.parent, "full", 1.41, [[0.0, 0.0, 96.0, 96.0]], [0])
    data = dataset_of([records[0], full], bank)
    assert data[1]["target"]["labels"].tolist() == [0]
    cropped = dataset_of(records, bank, crop_px=(16, 16))  # smaller than the cell
    assert all(1 not in cropped[SampleKey(epoch, 1)]["target"]["labels"] for epoch in range(5))


def test_only_whole_and_free_cells_of_rare_classes_are_copied(tmp_path: Path) -> None:
    rare = [[0.0, 30.0, 20.0, 54.0], [40.0, 30.0, 60.0, 50.0], [70.0, 76.0, 90.0, 96.0], [70.0, 30.0, 90.0, 50.0]]
    other = [54.0, 30.0, 64.0, 50.0]  # covers three tenths of the second
    crowded = record_of(tmp_path, "a", 1.41, [*rare, other], [1, 1, 1, 1, 0])
    plain = [record_of(tmp_path, name, 1.41, [NEIGHBOUR], [0]) for name in "bcd"]
    bank = CellBank.of([crowded, *plain], 2, 0.5)
    assert bank.boxes.tolist() == [rare[3]]
    assert len(CellBank.of([crowded, *plain], 2, 0.25).boxes) == 0  # a quarter of the fields hold it


def test_copies_of_a_field_are_drawn_anew(records: list[ProjectionRecord]) -> None:
    data = dataset_of(records, CellBank.of(records, 2, 0.5))
    first, copy = data[SampleKey(2, 1)], data[SampleKey(2, 1 + len(records))]
    assert first["image_id"] == copy["image_id"] == "b"
    assert not torch.equal(first["target"]["boxes"], copy["target"]["boxes"])
