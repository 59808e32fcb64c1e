"""Paper A's pipeline on simulated samples of known truth, from files to tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.indices import IndexSettings
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
    assert (both.cv_fl / both.true_cv).median() == pytest.approx(1.05, abs=0.05)
    assert (both.ch_pg / both.true_ch).median() == pytest.approx(1.0, abs=0.06)
    assert np.corrcoef(both.ch_pg, both.true_ch)[0, 1] > 0.9
    rbc = samples[samples.indices_of == "RBC"].set_index("sample")
    assert (rbc.n_RBC == truth[truth["class"] == "RBC"].groupby("sample").size()).all()
    assert ((rbc.mcv_fl_low < rbc.mcv_fl) & (rbc.mcv_fl < rbc.mcv_fl_high)).all()
    assert (tmp_path / "found" / "samples.png").stat().st_size > 10_000


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
