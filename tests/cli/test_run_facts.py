"""A data set's digest changes with its files and its annotations, and with nothing else."""

import shutil
from pathlib import Path

from hemolens.cli.run_facts import data_facts
from hemolens.data.modules.cell_folder import CellFolderDataModule
from hemolens.data.modules.coco import CocoDetectionDataModule
from hemolens.data.modules.sim_tomograms import SimulatedTomogramDataModule
from hemolens.data.modules.voc import VOCDetectionDataModule


def of_voc(root: Path, **more: int) -> dict:
    return data_facts(
        VOCDetectionDataModule(root=root, class_names=["RBC", "WBC", "Platelets"], **more), ["train"], "x"
    )


def test_the_digest_follows_files_and_annotations(voc_folder: Path, tmp_path: Path) -> None:
    first = of_voc(voc_folder)
    assert first["name"] == "voc" and first["source"] == str(voc_folder) and len(first["digest"]) == 32
    assert sum(first["counts"]["train"].values()) > 0 and "images" in first["described"]["train"]
    copy = Path(shutil.copytree(voc_folder, tmp_path / "other" / "voc"))
    (copy / ".hidden").touch()
    assert of_voc(copy, batch_size=7)["digest"] == first["digest"]
    annotation = next(copy.rglob("*.xml"))
    text = annotation.read_text()
    annotation.write_text(text.replace("RBC", "WBC", 1))  # of equal length
    assert annotation.read_text() != text and of_voc(copy)["digest"] != first["digest"]
    annotation.write_text(text)
    assert of_voc(copy)["digest"] == first["digest"]
    next(copy.rglob("*.jpg")).unlink()
    changed = data_facts(VOCDetectionDataModule(root=copy, class_names=["RBC"]), [], "x")
    assert changed["digest"] != first["digest"] and changed["counts"] == {}


def test_annotations_that_lie_elsewhere_count(voc_folder: Path, tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "boxes.json").write_text(text)
        words = {"class_names": ["RBC", "WBC"], "annotations": tmp_path / "boxes.json"}
        return data_facts(CocoDetectionDataModule(image_folder=voc_folder, **words), [], "x")["digest"]

    assert digest("{}") == digest("{}") != digest("[]")


def test_pictures_a_folder_a_class_are_counted_by_name(cell_folder_made_once: Path) -> None:
    module = CellFolderDataModule(root=cell_folder_made_once, min_images=4)
    facts = data_facts(module, ["train", "val", "test"], "x")
    assert {name: sum(f["counts"][s][name] for s in f["counts"]) for f in [facts] for name in ("RBC", "WBC")} == {
        "RBC": 8,
        "WBC": 8,
    }


def test_simulated_data_are_known_by_their_settings(tmp_path: Path) -> None:
    def facts(**more: int) -> dict:
        module = SimulatedTomogramDataModule(cache_dir=tmp_path, **more)
        return data_facts(module, [], "sim_tomograms")

    first = facts()
    assert (first["name"], first["source"]) == ("sim_tomograms", None)
    assert facts(batch_size=3)["digest"] == first["digest"] and facts(simulation_seed=9)["digest"] != first["digest"]
