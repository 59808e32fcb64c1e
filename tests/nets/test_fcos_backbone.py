"""Backbones: sizes, the shift of Swin, weights from files."""

import logging

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models._utils import IntermediateLayerGetter

from hemolens.errors import UserError
from hemolens.nets.fcos.backbone import TimmBackbone

SWIN = "swin_tiny_patch4_window7_224"


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics away from their initial zeros and ones."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.03 * torch.rand_like(tensor))
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return randomised(torchvision.models.resnet18(weights=None))


@pytest.fixture(scope="module")
def swin() -> torch.nn.Module:
    return randomised(torchvision.models.swin_t(weights=None))


def resnet_features(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    layers = {f"layer{i}": str(i) for i in (2, 3, 4)}
    with torch.no_grad():
        return list(IntermediateLayerGetter(model, layers)(images).values())


def load_resnet(path, **arguments) -> TimmBackbone:
    return TimmBackbone("resnet18", **{"in_channels": 3, "out_indices": (2, 3, 4), **arguments}, pretrained=path).eval()


def assert_equal_features(backbone: TimmBackbone, images: torch.Tensor, expected) -> None:
    with torch.no_grad():
        found = backbone(images)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_torchvision_resnet_from_a_file(resnet, tmp_path, caplog, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(resnet.state_dict(), path)
    else:
        torch.save(resnet.state_dict(), path)
    with caplog.at_level(logging.INFO, logger="hemolens"):
        backbone = load_resnet(str(path))
    # 20 convolutions with 5 tensors of norm each; the classifier is not used
    assert "loaded 120 tensors into resnet18; missing: none; not used: ['fc.bias', 'fc.weight']" in caplog.text
    images = torch.rand(1, 3, 70, 90)
    assert_equal_features(backbone, images, resnet_features(resnet, images))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_and_parallel_prefixes(resnet, tmp_path, wrapper):
    path = tmp_path / "checkpoint.pth"
    state = {f"module.{key}": value for key, value in resnet.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, path)
    images = torch.rand(1, 3, 64, 64)
    assert_equal_features(load_resnet(path), images, resnet_features(resnet, images))


def test_one_channel_sums_the_first_convolution(resnet, tmp_path):
    path = tmp_path / "rgb.pth"
    torch.save(resnet.state_dict(), path)
    gray = torch.rand(1, 1, 64, 96)
    expected = resnet_features(resnet, gray.expand(-1, 3, -1, -1))
    assert_equal_features(load_resnet(path, in_channels=1), gray, expected)


def test_more_channels_repeat_the_first_convolution(resnet, tmp_path):
    path = tmp_path / "rgb.pth"
    torch.save(resnet.state_dict(), path)
    weight = load_resnet(path, in_channels=5).model.conv1.weight
    source = resnet.conv1.weight
    torch.testing.assert_close(weight, source[:, [0, 1, 2, 0, 1]] * 3 / 5)


@pytest.mark.parametrize("size", [(252, 308), (256, 480)])
def test_swin_equals_torchvision_at_any_size(swin, tmp_path, size):
    """Maps that are no multiple of the 7-cell window: padding, shift and mask in the published order."""
    path = tmp_path / "swin.pth"
    torch.save(swin.state_dict(), path)
    backbone = TimmBackbone(SWIN, in_channels=3, out_indices=(0, 1, 2, 3), pretrained=path).eval()
    images = torch.rand(1, 3, *size)
    expected = []
    with torch.no_grad():
        x = images
        for i, stage in enumerate(swin.features):
            x = stage(x)
            if i % 2:
                expected.append(x.permute(0, 3, 1, 2))
    assert_equal_features(backbone, images, expected)


def test_swin_names_of_timm_and_of_the_first_release(tmp_path):
    model = randomised(timm.create_model(SWIN, pretrained=False))
    state = model.state_dict()
    old = {}
    for key, value in state.items():
        for stage in (1, 2, 3):
            key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        old[key] = value
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    maps = []
    for name, content in (("new.pth", state), ("old.pth", {"model": old})):
        torch.save(content, tmp_path / name)
        backbone = TimmBackbone(SWIN, 1, (1, 2, 3), pretrained=tmp_path / name).eval()
        own = {k.replace("layers_", "layers."): v for k, v in backbone.model.state_dict().items()}
        assert all(torch.equal(v, state[k]) for k, v in own.items() if k != "patch_embed.proj.weight")
        with torch.no_grad():
            maps.append(backbone(torch.ones(1, 1, 64, 64)))
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))


def test_swin_pads_to_whole_patches():
    backbone = TimmBackbone(SWIN, 1, (0, 1, 2, 3)).eval()
    images = torch.rand(1, 1, 61, 90)
    padded = torch.zeros(1, 1, 64, 92)
    padded[..., :61, :90] = images
    with torch.no_grad():
        maps, expected = backbone(images), backbone(padded)
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 23), (8, 12), (4, 6), (2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_output_norms_normalise_over_channels():
    torch.manual_seed(0)
    for name, indices in ((SWIN, (1, 2)), ("resnet18", (2, 3))):
        backbone = TimmBackbone(name, 3, indices, out_norm=True).eval()
        with torch.no_grad():
            for feature in backbone(torch.rand(1, 3, 64, 64)):
                torch.testing.assert_close(feature.mean(1), torch.zeros_like(feature[:, 0]), atol=1e-4, rtol=0)
                assert (feature.var(1, correction=0) - 1).abs().max() < 0.05


def test_drop_path_reaches_the_blocks():
    backbone = TimmBackbone(SWIN, 3, (1, 2, 3), drop_path_rate=0.2)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2)


def test_timm_s_own_weights_are_asked_for(monkeypatch):
    asked = {}

    def no_network(name, **arguments):
        asked.update(arguments)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UserError, match=r"download.*no route.*net\.backbone\.pretrained=<path>"):
        TimmBackbone("resnet18", 3, (2, 3, 4), pretrained=True)
    assert asked["pretrained"] is True


def test_missing_tensors_are_reported(resnet, tmp_path, caplog):
    path = tmp_path / "part.pth"
    torch.save({k: v for k, v in resnet.state_dict().items() if "layer4" not in k}, path)
    load_resnet(path)
    assert "25 tensors of resnet18 keep their random values" in caplog.text


def bad_file(kind: str, path) -> None:
    if kind == "not a checkpoint":
        path.write_bytes(b"hello")
    elif kind == "other names":
        torch.save({"encoder.a": torch.zeros(1), "encoder.b": torch.zeros(1)}, path)
    elif kind == "no tensors":
        torch.save([1, 2], path)
    elif kind == "code":
        torch.save({"conv1.weight": print}, path)
    elif kind == "other network":
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "do not exist: correct net.backbone.pretrained"),
        ("not a checkpoint", "can't read pretrained weights"),
        ("no tensors", "can't read pretrained weights"),
        ("code", "can't read pretrained weights"),
        ("other names", "holds nothing for the network 'resnet18'"),
        ("other network", "belongs to another network"),
    ],
)
def test_bad_files_name_the_file(tmp_path, kind, message):
    path = tmp_path / "weights.pth"
    bad_file(kind, path)
    with pytest.raises(UserError, match=message) as error:
        load_resnet(path)
    assert str(path) in str(error.value)


def test_unknown_suffix(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="safetensors"):
        load_resnet(path)
