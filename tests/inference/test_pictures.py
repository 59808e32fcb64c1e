"""What a detector sees of a file is what it was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemolens.data.modules.tomograms import TomogramDataModule
from hemolens.data.views import CHANNELS, NORMS, TomogramView
from hemolens.errors import UserError
from hemolens.inference.detection import InputSpec
from hemolens.inference.pictures import read_picture
from hemolens.io.volumes import RIArray, Volume, write_volume

SIZE = (40, 56)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three TCF files of noise with a bright block, each with one box."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(3):
        index = (1.337 + 1e-3 * rng.standard_normal((9, *SIZE))).astype(np.float32)
        index[4, 10:20, 10 + number : 30] += np.float32(0.05)
        name = f"field{number}.tcf"
        volume = Volume(
            array=RIArray(index, name),
            voxel_um=(0.7, 0.16, 0.16),
            medium_index=1.337,
            wavelength_um=0.45,
            path=folder / name,
        )
        write_volume(folder / name, volume, title=name)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        box = [10 + number, 10, 20 - number, 10]
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 200, "iscrowd": 0})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "RBC"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("projection", "norm"),
    [(name, norm) for name in CHANNELS for norm in NORMS if name != "phase" or norm == "minmax_projection"],
)
def test_prediction_sees_what_training_saw(lab: Path, tmp_path: Path, projection: str, norm: str) -> None:
    data = TomogramDataModule(
        root=lab,
        cache_dir=tmp_path,
        class_names=["RBC"],
        manifest=None,
        projection=projection,
        norm=norm,
        ri_window=[-0.001, 0.04],
        in_channels=3 if projection == "max_mean_focus" else 1,
        size_divisor=1,
    )
    data.setup("test")
    sample = data.test_dataloader().dataset[0]
    spec = InputSpec.from_dict(json.loads(json.dumps(data.input_spec())))
    tensor, _ = spec.apply(read_picture(lab / f"{sample['image_id']}.tcf", spec.view))
    assert torch.equal(tensor, sample["image"])
    assert tensor.shape == (data.in_channels, *SIZE)
    assert tensor.std() > 0.01


def test_an_image_stands_for_a_tomogram_only_where_it_can(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", TomogramView()).shape == (8, 8)
    for view in (TomogramView(norm="ri_window"), TomogramView(projection="max_mean_focus")):
        with pytest.raises(UserError, match=r"a\.png is an image, but the detector was trained on tomograms"):
            read_picture(tmp_path / "a.png", view)
