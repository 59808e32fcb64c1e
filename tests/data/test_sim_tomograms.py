"""The simulated data set: same for any number of workers, resumable, split by sample, floors and rates."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hemolens.data.modules.sim_tomograms import SimulatedTomogramDataModule, describe_statistics
from hemolens.data.planes import Planes, map_planes, planes_to_arrays
from hemolens.data.sampling import SampleKey
from hemolens.data.simulation.plan import DataSetPlan, build_settings, statistics_of
from hemolens.data.simulation.run import FieldStore, data_set_folder, simulate_data_set
from hemolens.data.simulation.truth import load_arrays, masks_of, save_arrays
from hemolens.data.views import TomogramView
from hemolens.errors import UserError
from hemolens.optics.cells import CLASS_NAMES, BloodSettings
from hemolens.optics.fields import FieldSettings
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "data" / "sim_tomograms.yaml"
TINY = DataSetPlan(
    fov=FieldSettings(
        field_px=(128, 160),
        blood=BloodSettings(wbc_fraction=0.02),
        placement=PlacementSettings(density_per_mm2=6000.0),
        tomography=TomographySettings(slices=12, margin_slices=4, axial_oversampling=2),
    ),
    n_samples=4,
    fields_per_sample=2,
    test_floor={"PLT": 3},
)


def module(cache_dir: Path, **changes: object) -> SimulatedTomogramDataModule:
    """The data module of the plan TINY."""
    values: dict = {
        "field_px": [128, 160],
        "n_samples": 4,
        "fields_per_sample": 2,
        "test_floor": {"PLT": 3},
        "blood": {"wbc_fraction": 0.02},
        "placement": {"density_per_mm2": 6000.0},
        "tomography": {"slices": 12, "margin_slices": 4, "axial_oversampling": 2},
        "batch_size": 2,
        "simulation_workers": 1,
    }
    return SimulatedTomogramDataModule(cache_dir=cache_dir, **{**values, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the data set of the plan TINY; for reading only."""
    folder = tmp_path_factory.mktemp("cache")
    simulate_data_set(TINY, folder, workers=1)
    return folder


def contents(cache_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache_dir)): path.read_bytes() for path in cache_dir.rglob("*") if path.is_file()}


def test_same_bytes_for_any_number_of_workers(cache: Path, tmp_path: Path) -> None:
    simulate_data_set(TINY, tmp_path, workers=2)
    assert contents(tmp_path) == contents(cache)


def test_stopped_run_goes_on_and_damaged_fields_are_made_again(cache: Path, tmp_path: Path) -> None:
    records = simulate_data_set(TINY, tmp_path, workers=1)
    folder = data_set_folder(TINY, tmp_path)
    complete = contents(tmp_path)
    (folder / "fields" / "records.json").unlink()
    store = FieldStore(folder)
    store.truth(records[0].name).unlink()
    damaged = store.truth(records[1].name)
    damaged.write_bytes(damaged.read_bytes()[:3000])
    untouched = store.truth(records[2].name).stat().st_mtime_ns
    assert simulate_data_set(TINY, tmp_path, workers=1) == records
    assert contents(tmp_path) == complete == contents(cache)
    assert store.truth(records[2].name).stat().st_mtime_ns == untouched
    store.truth(records[0].name).unlink()  # a finished data set that lost a field
    assert simulate_data_set(TINY, tmp_path, workers=1) == records
    (folder / "fields" / "records.json").write_text('{"fields": [')
    assert simulate_data_set(TINY, tmp_path, workers=1) == records


def test_failed_writing_leaves_no_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: object, **arrays: object) -> None:
        file.write(b"half a field")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        with pytest.raises(KeyboardInterrupt):
            simulate_data_set(TINY, tmp_path, workers=1)
    assert contents(tmp_path) == {}
    assert simulate_data_set(TINY, tmp_path, workers=1)


def test_settings_name_the_cache() -> None:
    other = dataclasses.replace(TINY, seed=1)
    floors = dataclasses.replace(TINY, test_floor={"PLT": 4})
    names = {plan.fingerprint() for plan in (TINY, other, floors)}
    assert len(names) == 3
    assert dataclasses.replace(TINY).fingerprint() == TINY.fingerprint()


def test_split_is_by_sample(cache: Path) -> None:
    records = simulate_data_set(TINY, cache)
    samples = {split: {r.sample for r in records if r.split == split} for split in ("train", "val", "test")}
    assert samples["train"] | samples["val"] | samples["test"] == set(range(4))
    assert sum(map(len, samples.values())) == 4
    plan = DataSetPlan(n_samples=20)
    assert [len(plan.samples(split)) for split in ("train", "val", "test")] == [14, 4, 2]


def test_blood_differs_between_samples_only(cache: Path) -> None:
    store = FieldStore(data_set_folder(TINY, cache))
    records = simulate_data_set(TINY, cache)
    blood = {r.name: tuple(load_arrays(store.truth(r.name), ("sample",))["sample"]) for r in records}
    by_sample = {sample: {blood[r.name] for r in records if r.sample == sample} for sample in range(4)}
    assert all(len(found) == 1 for found in by_sample.values())
    assert len(set.union(*by_sample.values())) == 4


def test_floors_hold_and_statistics_are_those_of_the_files(cache: Path) -> None:
    records = simulate_data_set(TINY, cache)
    store = FieldStore(data_set_folder(TINY, cache))
    test = [record for record in records if record.split == "test"]
    statistics = statistics_of(test)
    assert statistics["class_counts"]["PLT"] >= 3
    assert statistics["n_enriched_fields"] == len(test) - 2
    labels, touching, cut = [], [], []
    for record in test:
        stored = load_arrays(store.truth(record.name), ("labels", "touching", "visible_fraction"))
        labels += stored["labels"].tolist()
        touching += stored["touching"].tolist()
        cut += (stored["visible_fraction"] < 1).tolist()
    assert statistics["n_cells"] == len(labels)
    assert statistics["class_counts"] == {name: labels.count(i) for i, name in enumerate(CLASS_NAMES)}
    assert statistics["touching_fraction"] == pytest.approx(np.mean(touching))
    assert statistics["border_fraction"] == pytest.approx(np.mean(cut))
    assert not any(record.enriched for record in records if record.split != "test")


def test_full_floors_and_rates(tmp_path: Path) -> None:
    """The floors and rates that reports rely on, on a small data set with the mixture of the paper."""
    data = module(
        tmp_path,
        field_px=[512, 512],
        n_samples=3,
        fields_per_sample=4,
        test_floor={"RBC": 100, "PLT": 100, "WBC": 30, "ARBC": 100},
        blood=None,
        placement=None,
        tomography={"slices": 32, "margin_slices": 4, "axial_oversampling": 2},  # white cells must fit
        simulation_workers=None,
        enriched_fraction=0.5,
    )
    data.prepare_data()
    data.setup("test")
    statistics = data.field_statistics("test")
    floors = {"RBC": 100, "PLT": 100, "WBC": 30, "ARBC": 100}
    assert all(statistics["class_counts"][name] >= floor for name, floor in floors.items())
    assert statistics["touching_fraction"] >= 0.30
    assert statistics["border_fraction"] >= 0.08
    assert "enriched" in describe_statistics(statistics)


def test_floor_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemolens.data.simulation.run.MAX_ENRICHMENT_ROUNDS", 1)
    plan = dataclasses.replace(TINY, test_floor={"WBC": 4}, enriched_fraction=1.0)
    with pytest.raises(UserError, match=r"test_floor .* not reached"):
        simulate_data_set(plan, tmp_path, workers=1)


def test_stored_truth(cache: Path) -> None:
    store = FieldStore(data_set_folder(TINY, cache))
    for record in simulate_data_set(TINY, cache):
        with np.load(store.truth(record.name)) as file:
            stored = {name: file[name] for name in file}
        planes, count = stored["planes"], len(stored["labels"])
        assert planes.dtype == np.uint16 and planes.shape == (3, 128, 160)
        assert {(int(plane.min()), int(plane.max())) for plane in planes} == {(0, 65535)}
        for name in ("boxes", "instance_id", "kind", "volume_fl", "hemoglobin_pg", "pose", "touching"):
            assert len(stored[name]) == count
        red = np.isin(stored["true_class"], ["RBC", "ARBC"])
        assert ((stored["hemoglobin_pg"] > 0) == red).all()
        assert (stored["volume_fl"] > 0).all()
        assert stored["plane_ranges"][0, 1] == stored["volume_facts"][1] > 1.36  # RI of a cell
        masks = masks_of(stored)
        assert len(masks) == count
        for mask, corner, box in zip(masks, stored["mask_corner"], stored["boxes"], strict=True):
            rows, columns = np.nonzero(mask)
            top, left = corner
            assert tuple(box) == (
                left + columns.min(),
                top + rows.min(),
                left + columns.max() + 1,
                top + rows.max() + 1,
            )


def test_batches_keep_the_contract(cache: Path) -> None:
    data = module(cache, augment={"horizontal_flip": 0.5})
    data.setup("fit")
    assert data.class_names == CLASS_NAMES
    assert data.in_channels == 1
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (2, 1, 128, 160)
    assert batch["images"].dtype == torch.float32
    assert batch["image_sizes"].tolist() == [[128, 160]] * 2
    for image, target in zip(batch["images"], batch["targets"], strict=True):
        assert (float(image.min()), float(image.max())) == (0.0, 1.0)
        boxes = target["boxes"]
        assert boxes.dtype == torch.float32
        assert target["labels"].dtype == torch.int64
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([160, 128, 160, 128])).all()
    assert len(data.val_dataloader().dataset) == data.field_statistics("val")["n_fields"]
    assert len(data.test_dataloader().dataset) == data.field_statistics("test")["n_fields"]


def test_training_batches_do_not_depend_on_loader_workers(cache: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = module(cache, augment={"horizontal_flip": 0.5}, train_crop_px=[96, 64], num_workers=workers, seed=3)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(list(loader))
    for alone, with_workers in zip(*batches, strict=True):
        assert alone["image_ids"] == with_workers["image_ids"]
        assert torch.equal(alone["images"], with_workers["images"])
        for one, other in zip(alone["targets"], with_workers["targets"], strict=True):
            assert torch.equal(one["boxes"], other["boxes"])


@pytest.mark.parametrize("rare_classes", ["repeat_factor", "copy_paste"])
def test_rare_classes_come_more_often_in_training_alone(cache: Path, rare_classes: str) -> None:
    counts = {}
    for switch in (None, rare_classes):
        data = module(cache, rare_classes=switch)
        data.setup("fit")
        fields = data._records["train"]
        alone = next(at for at, field in enumerate(fields) if len(field.labels) == 1)
        fields[alone] = dataclasses.replace(fields[alone], labels=np.array([2]))  # the only white cell
        loader = data.train_dataloader()
        counts[switch] = np.zeros(4)
        for epoch in range(20):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                labels = torch.cat([target["labels"] for target in batch["targets"]])
                counts[switch] += np.bincount(labels, minlength=4)
        evaluated = data.val_dataloader()
        assert len(evaluated.sampler) == len(evaluated.dataset) and evaluated.dataset.bank is None
    assert len(fields) == 4
    plain, more = counts[None], counts[rare_classes]
    assert plain[2] == 20
    if rare_classes == "repeat_factor":  # sqrt(0.5 / 0.25) of 4.41 in 5 keys
        assert more[2] == pytest.approx(20 * math.sqrt(2) * 5 / (3 + math.sqrt(2)), abs=8)
    else:
        assert more[2] > 40 and (more[[0, 1, 3]] == plain[[0, 1, 3]]).all()


def test_crops_show_their_cells(cache: Path) -> None:
    whole = module(cache)
    cropped = module(cache, train_crop_px=[96, 64], in_channels=3)
    whole.setup("fit")
    cropped.setup("fit")
    fields, crops = whole.train_dataloader().dataset, cropped.train_dataloader().dataset
    places = set()
    for index in range(len(fields)):
        image = fields[index]["image"][0]
        for epoch in range(2):
            crop = crops[SampleKey(epoch, index)]
            assert crop["image"].shape == (3, 96, 64)
            windows = image.unfold(0, 96, 1).unfold(1, 64, 1)
            top, left = (int(i[0]) for i in torch.nonzero((windows == crop["image"][2]).all(-1).all(-1), as_tuple=True))
            places.add((top, left))
            moved = crop["target"]["boxes"] + torch.tensor([left, top, left, top])
            inside = torch.tensor([left, top, left + 64, top + 96])
            expected = fields[index]["target"]["boxes"]
            expected = torch.cat([expected[:, :2].maximum(inside[:2]), expected[:, 2:].minimum(inside[2:])], dim=1)
            assert all((expected == box).all(1).any() for box in moved)
    assert len(places) > 2


def test_seeds_of_data_and_of_training_are_apart(cache: Path) -> None:
    assert module(cache, seed=5).plan.fingerprint() == TINY.fingerprint()
    assert module(cache, simulation_seed=5).plan.fingerprint() != TINY.fingerprint()


def test_config_states_the_defaults() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    parts = {key: config[key] for key in ("field_px", "blood", "placement", "tomography")}
    assert build_settings(FieldSettings, parts, "data") == FieldSettings()
    wired = {"_target_", "_convert_", "cache_dir", "seed", "in_channels"}
    data = SimulatedTomogramDataModule(
        cache_dir="unused", **{key: value for key, value in config.items() if key not in wired}
    )
    floors = {"RBC": 100, "PLT": 100, "WBC": 30, "ARBC": 100}
    assert data.plan == DataSetPlan(test_floor=floors)
    assert data.view == TomogramView() and data.in_channels == 1
    assert data.train_transform.augmentation is not None
    assert data.train_transform.augmentation.horizontal_flip == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blood": {"wbc": 0.1}}, "data.blood has no key wbc: choose from class_fractions"),
        ({"blood": {"red_cells": {"tilt": [0, 1]}}}, "data.blood.red_cells has no key tilt"),
        ({"n_samples": 2}, "at least 3"),
        ({"split": [0.5, 0.5]}, "three shares"),
        ({"test_floor": {"Platelets": 3}}, "Platelets"),
        ({"projection": "median"}, "choose from maximum"),
        ({"projection": "max_mean_focus"}, "set in_channels=3"),
        ({"rare_classes": "mosaic"}, "choose from repeat_factor, copy_paste, or null"),
        ({"rare_threshold": 0.0}, "rare_threshold=0.0"),
        ({"norm": "minmax"}, "choose from minmax_projection, minmax_volume, ri_window"),
        ({"norm": "ri_window", "ri_window": [0.1, 0.0]}, "ri_window"),
        ({"norm": "ri_window", "projection": "phase"}, "a phase is in rad"),
        ({"enriched_fraction": 0.0}, "enriched_fraction"),
        ({"class_names": ["RBC", "WBC"]}, "class_names"),
        ({"in_channels": 2}, "in_channels=2"),
        ({"train_crop_px": [256, 256]}, "train_crop_px"),
        ({"augment": {"flip": 0.5}}, "flip"),
    ],
)
def test_bad_arguments(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(tmp_path, **changes)


def test_missing_and_damaged_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s000_f000.npz"
    with pytest.raises(UserError, match="s000_f000"):
        load_arrays(path, ("labels",))
    path.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="remove this file"):
        load_arrays(path, ("labels",))
    np.savez(path, boxes=np.zeros((0, 4)))
    with pytest.raises(UserError, match="labels"):
        load_arrays(path, ("labels",))
    with pytest.raises(UserError, match=r"planes\.npy is not where"):
        map_planes(path)
    stored = np.random.default_rng(0).integers(0, 65536, (3, 40, 30), np.uint16)
    ranges = np.array([[1.3, 1.4], [1.33, 1.34], [1.31, 1.39]])
    save_arrays(path, planes_to_arrays(Planes(stored, ranges, (1.29, 1.4), 1.337)))
    found = map_planes(path)
    assert (found.stored == stored).all() and (found.ranges == ranges).all()
    assert (found.volume_range, found.medium_index) == ((1.29, 1.4), 1.337)
    assert found.values("mean") == pytest.approx(1.33 + stored[1] / 65535 * 0.01, abs=1e-6)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match="remove this file"):
        map_planes(path)


def test_unknown_split(cache: Path) -> None:
    data = module(cache)
    data.setup("fit")
    with pytest.raises(UserError, match="train, val, test"):
        data.field_statistics("training")


def test_manifest_tells_how_it_was_made(cache: Path) -> None:
    manifest = json.loads((data_set_folder(TINY, cache) / "fields" / "records.json").read_text())
    assert manifest["plan"]["fov"]["field_px"] == [128, 160]
    assert {"name", "split", "sample", "enriched", "class_counts"} <= set(manifest["fields"][0])
