"""Paper A's pipeline on simulated samples of known truth, from files to tables."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.indices import IndexSettings
from hemolens.cli.app import compose_config
from hemolens.cli.predict import predict
from hemolens.data.simulation.export import export_data_set
from hemolens.data.simulation.plan import DataSetPlan
from hemolens.errors import UserError
from hemolens.inference.hematology import HematologyOutputs
from hemolens.inference.outputs import DetectedImage, write_detection_outputs
from hemolens.inference.samples import list_samples
from hemolens.io.detections import ImageDetections
from hemolens.io.labels import read_labels
from hemolens.io.volumes import open_volume
from hemolens.optics.cells import CLASS_NAMES, BloodSettings
from hemolens.optics.fields import FieldSettings
from hemolens.optics.placement import PlacementSettings
from hemolens.optics.tomography import TomographySettings

SIZE = (224, 224)


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory) -> Path:
    """Six fields of three samples, as TCF."""
    folder = tmp_path_factory.mktemp("blood") / "tomograms"
    settings = FieldSettings(
        field_px=SIZE,
        blood=BloodSettings(wbc_fraction=0.0),
        placement=PlacementSettings(density_per_mm2=3500.0, touching_probability=0.0, border_probability=0.0),
        tomography=TomographySettings(slices=32, margin_slices=8),
    )
    plan = DataSetPlan(fov=settings, n_samples=3, fields_per_sample=2, seed=3)
    export_data_set(plan, folder, volume_format="tcf", workers=1)
    return folder


def perfect_detections(folder: Path, files):
    """The true boxes as a detector would give them."""
    truth = pd.read_csv(folder / "cells.csv")
    for entry in files:
        rows = truth[truth.file == entry.path.relative_to(folder).as_posix()]
        boxes = rows[["x1_px", "y1_px", "x2_px", "y2_px"]].to_numpy(np.float32)
        labels = np.array([CLASS_NAMES.index(name) for name in rows["class"]], np.int64)
        found = ImageDetections(entry.name, *SIZE, boxes, labels, np.ones(len(rows), np.float32))
        yield DetectedImage(found, np.zeros(SIZE, np.uint8))


def test_samples_come_out_as_they_were_drawn(tomograms, tmp_path):
    files = list_samples(tomograms)
    assert len({entry.sample for entry in files}) == 3 and len(files) == 6
    more = HematologyOutputs(files, CLASS_NAMES, IndexSettings())
    detected = perfect_detections(tomograms, files)
    write_detection_outputs(tmp_path / "found", detected, CLASS_NAMES, overlays=False, more=[more])
    cells, samples = (pd.read_csv(tmp_path / "found" / f"{name}.csv") for name in ("cells", "samples"))
    truth = pd.read_csv(tomograms / "cells.csv")
    assert len(cells) == len(truth) and (cells.groupby("sample").size() == truth.groupby("sample").size()).all()
    both = cells.assign(true_cv=truth.volume_fl.to_numpy(), true_ch=truth.hemoglobin_pg.to_numpy())
    assert (cells["class"].to_numpy() == truth["class"].to_numpy()).all()
    both = both[(both["class"] == "RBC") & ~both.border_cut & ~both.clumped]
    assert len(both) >= 12
    assert (both.cv_fl / both.true_cv).median() == pytest.approx(1.0, abs=0.05)
    assert (both.ch_pg / both.true_ch).median() == pytest.approx(1.0, abs=0.06)
    assert np.corrcoef(both.ch_pg, both.true_ch)[0, 1] > 0.9
    rbc = samples[samples.indices_of == "RBC"].set_index("sample")
    assert (rbc.n_RBC == truth[truth["class"] == "RBC"].groupby("sample").size()).all()
    assert ((rbc.mcv_fl_low < rbc.mcv_fl) & (rbc.mcv_fl < rbc.mcv_fl_high)).all()
    assert (tmp_path / "found" / "samples.png").stat().st_size > 10_000


def with_more_boxes(detected, boxes):
    """The detections of one image with boxes put before its last one."""
    (image,) = detected
    found = image.detections
    place, more = len(found) - 1, np.array(boxes, np.float32)
    return DetectedImage(
        ImageDetections(
            found.file_name,
            *SIZE,
            np.insert(found.boxes, place, more, axis=0),
            np.insert(found.labels, place, np.zeros(len(more), np.int64)),
            np.insert(found.scores, place, np.ones(len(more), np.float32)),
        ),
        image.pixels,
    )


def test_boxes_outside_the_field_are_cells_that_the_border_cuts(tomograms, tmp_path):
    files = list_samples(tomograms)[:1]
    settings, width = IndexSettings(method="threshold"), SIZE[1]
    outside = [[width, 10, width + 9, 30], [20, -9, 40, 0], [50, 50, 50, 60]]
    tables, masks = {}, {}
    for name, more_boxes in (("plain", np.zeros((0, 4))), ("more", outside)):
        detected = with_more_boxes(perfect_detections(tomograms, files), more_boxes)
        more = HematologyOutputs(files, CLASS_NAMES, settings)
        write_detection_outputs(tmp_path / name, [detected], CLASS_NAMES, overlays=False, more=[more])
        tables[name] = pd.read_csv(tmp_path / name / "cells.csv")
        (mask,) = (tmp_path / name / "labels").rglob("*.ome.tif")
        masks[name] = read_labels(mask)
    plain, both = tables["plain"], tables["more"]
    last = len(plain)
    empty = both.iloc[last - 1 : last + 2]
    assert empty.cell.tolist() == [last, last + 1, last + 2] and (empty["class"] == CLASS_NAMES[0]).all()
    assert empty.cv_fl.isna().all() and empty.ch_pg.isna().all() and (empty.contour_voxels == 0).all()
    assert empty.border_cut.all() and not empty.clumped.any()
    assert both.iloc[-1].cv_fl == plain.iloc[-1].cv_fl > 0
    moved = np.where(masks["plain"] == last, last + 3, masks["plain"])
    assert (masks["more"] == moved).all()
    counts = [pd.read_csv(tmp_path / name / "samples.csv") for name in tables]
    assert (counts[1].n_RBC == counts[0].n_RBC + 3).all() and (counts[1].n_measured == counts[0].n_measured).all()
    assert counts[1].mcv_fl.tolist() == counts[0].mcv_fl.tolist()


@pytest.fixture
def two_files(tomograms, tmp_path):
    """Two tomograms of their own folders, which a test may damage."""
    for name, path in zip(("a", "b"), sorted((tomograms / "volumes").iterdir()), strict=False):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "in" / name)
    return list_samples(tmp_path / "in")


def one_box(files):
    for entry in files:
        found = ImageDetections(entry.name, *SIZE, np.array([[50, 50, 90, 90]]), np.zeros(1, int), np.ones(1))
        yield DetectedImage(found, np.zeros(SIZE, np.uint8))


def test_a_damaged_volume_is_left_out_alone(two_files, tmp_path):
    damaged = two_files[1]
    damaged.path.write_bytes(damaged.path.read_bytes()[:4000])
    settings, errors = IndexSettings(method="threshold"), []
    more = HematologyOutputs(two_files, CLASS_NAMES, settings)
    results = write_detection_outputs(
        tmp_path / "out", one_box(two_files), CLASS_NAMES, more=[more], leave_out=errors.append
    )
    assert [result.file_name for result in results] == [two_files[0].name]
    assert len(errors) == 1 and damaged.path.name in str(errors[0])
    for name in ("cells", "samples", "detections", "counts"):
        assert "a" in (text := (tmp_path / "out" / f"{name}.csv").read_text()) and damaged.name not in text
    for folder in ("overlays", "geojson", "labels"):
        assert len([path for path in (tmp_path / "out" / folder).rglob("*.*")]) == 1
    with pytest.raises(UserError, match=damaged.path.name):
        more = HematologyOutputs(two_files, CLASS_NAMES, settings)
        write_detection_outputs(tmp_path / "none", one_box(two_files), CLASS_NAMES, more=[more])
    assert not (tmp_path / "none").exists()


class DamagingPredictor:
    """Finds one cell in each field; the second file is damaged as soon as it was looked at."""

    def __init__(self):
        self.class_names = CLASS_NAMES
        self.task = SimpleNamespace(decode_settings={"score_threshold": 0.1, "nms_iou": 0.6})
        self.input_spec = SimpleNamespace(projection="maximum")

    def read(self, path, volume):
        if path.parent.name == "b":
            path.write_bytes(path.read_bytes()[:4000])
        return np.zeros(SIZE, np.uint8)

    def predict(self, image, *, tile_px, tile_overlap_px):
        found = {"boxes": np.array([[50, 50, 90, 90]]), "labels": np.zeros(1, int), "scores": np.ones(1)}
        return found | {"probabilities": np.array([[0.9, 0.1, 0.1, 0.1]])}


def test_predict_names_what_could_not_be_measured_and_exits_with_1(two_files, tmp_path, monkeypatch):
    monkeypatch.setattr("hemolens.inference.load.load", lambda *args, **keys: DamagingPredictor())
    words = [f"input={tmp_path}/in", f"output={tmp_path}/out", "ckpt_path=x", "pipeline=hematology"]
    cfg = compose_config("predict", [*words, "hematology.method=threshold", "hematology.features=0"])
    with pytest.raises(UserError, match="1 of 2 files were left out") as caught:
        predict(cfg)
    assert caught.value.exit_code == 1 and two_files[1].path.name in str(caught.value)
    assert pd.read_csv(tmp_path / "out" / "cells.csv").file.tolist() == [two_files[0].name]


def test_impossible_apertures_are_refused():
    with pytest.raises(UserError, match="objective_na=-1"):
        HematologyOutputs([], CLASS_NAMES, IndexSettings(), objective_na=-1)


def test_label_masks_carry_the_number_of_the_cell(tomograms, tmp_path):
    files = list_samples(tomograms)[:1]
    more = HematologyOutputs(files, CLASS_NAMES, IndexSettings(method="threshold"))
    detected = perfect_detections(tomograms, files)
    write_detection_outputs(tmp_path / "found", detected, CLASS_NAMES, overlays=False, more=[more])
    cells = pd.read_csv(tmp_path / "found" / "cells.csv")
    (mask,) = (tmp_path / "found" / "labels").rglob("*.ome.tif")
    labels = read_labels(mask)
    assert labels.shape == SIZE and labels.max() == len(cells)
    with open_volume(files[0].path) as volume:
        pixel = volume.voxel_um[1] * volume.voxel_um[2]
    for row in cells.itertuples():
        assert (labels == row.cell).sum() * pixel == pytest.approx(row.footprint_um2, abs=0.01)
        ys, xs = np.nonzero(labels == row.cell)
        assert row.x0 - 5 <= xs.min() and xs.max() <= row.x1 + 5 and row.y0 - 5 <= ys.min() and ys.max() <= row.y1 + 5


def test_samples_by_folder_by_file_and_by_manifest(tomograms, tmp_path):
    volumes = sorted((tomograms / "volumes").iterdir())
    assert {entry.sample for entry in list_samples(tomograms / "volumes")} == {
        entry.sample for entry in list_samples(tomograms)
    }  # the manifest lies beside the folder
    assert list_samples(volumes[0])[0].sample == volumes[0].stem
    for name, path in zip(("donor1", "donor1", "donor2"), volumes, strict=False):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / path.name).symlink_to(path)
    found = list_samples(tmp_path)
    assert [entry.sample for entry in found] == ["donor1", "donor1", "donor2"]
    assert found[0].name == f"donor1/{volumes[0].name}"
    assert {entry.sample for entry in list_samples(tmp_path / "donor1")} == {"donor1"}
    (tmp_path / "list.csv").write_text("file,sample\ndonor1/none.tcf,x\n")
    with pytest.raises(UserError, match=r"none\.tcf, which does not exist"):
        list_samples(tmp_path, tmp_path / "list.csv")
    with pytest.raises(UserError, match="no tomogram"):
        list_samples(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    with pytest.raises(UserError, match="holds no tomogram"):
        list_samples(tmp_path / "pictures")
    (tmp_path / "list.csv").write_text(f"file,sample\ndonor1/{volumes[0].name},x\n")
    with pytest.raises(UserError, match="lists no file inside"):
        list_samples(tmp_path / "donor2", tmp_path / "list.csv")
