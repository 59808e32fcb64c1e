"""Features of phase images: of the encoder, at the scale that it was trained at."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.errors import UserError
from hemolens.inference.image_features import encoder_features


def checkpoint(path: Path, target: str, **options: Any) -> Path:
    from hydra.utils import instantiate

    net = {"_target_": f"hemolens.nets.{target}", "num_classes": 3, "in_channels": 1, **options}
    model = {"_target_": "hemolens.tasks.segmentation.SegmentationTask"}
    names = ["background", "a", "b"]
    task = instantiate(model, net=instantiate(net), class_names=names, optimizer=None)
    about = {"config": {"net": net, "model": model}, "class_names": names, "task": "SegmentationTask", "version": "0"}
    given = {"phase_limits_rad": [-1.0, 5.0], "pixel_um": 0.25, "wavelength_um": None}
    torch.save({KEY: about | {"input": given}, "state_dict": task.state_dict()}, path)
    return path


def test_features_are_the_encoders_at_its_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = checkpoint(tmp_path / "seg.ckpt", "resunet.ResUnet", encoder="resnet18", decoder_channels=[8, 8, 8, 8, 8])
    images = torch.rand(3, 1, 64, 64) * 4
    found = encoder_features(path, pixel_um=0.25)(images)
    assert found.shape == (3, 512) and found.dtype == torch.float32
    from hemolens.inference.load import load

    predictor = load(path, precision="32-true")
    with torch.no_grad():
        scaled = torch.cat([predictor.input_spec.scaled(image[0].numpy())[None] for image in images])
        expected = predictor.task.net.encoder(scaled)[-1].mean((2, 3))
    torch.testing.assert_close(found, expected)
    small = torch.nn.functional.avg_pool2d(images, 2)  # pixels twice as large are enlarged
    torch.testing.assert_close(encoder_features(path, pixel_um=0.5)(small).shape, found.shape)
    seen = encoder_features(path, pixel_um=0.5)(small)
    assert not torch.allclose(seen, encoder_features(path, pixel_um=0.25)(small), atol=1e-3)


def test_a_network_without_an_encoder_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "unet.ckpt", "baselines.UNet", width=4, depth=5)
    with pytest.raises(UserError, match="has no encoder"):
        encoder_features(path)
