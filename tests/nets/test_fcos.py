"""FCOS as a network: published sizes, shapes, initialisation, configs."""

import math
from functools import partial
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from hemolens.errors import UserError
from hemolens.nets.fcos.backbone import TimmBackbone
from hemolens.nets.fcos.head import FCOSHead
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.fcos.neck import FPN, PAFPN
from hemolens.nets.fcos.targets import valid_points

from .base_tester import NetTester

CONFIGS = Path(__file__).parents[2] / "configs" / "net"
# published counts with 4 classes and 3 channels, all parameters
COUNTS = {"fcos_r18_pafpn": 21_462_862, "fcos_r50_fpn": 32_122_190, "fcos_swin_t_fpn": 35_561_224}
STRIDES = (8, 16, 32, 64, 128)


def from_config(name: str, **overrides) -> FCOS:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    for key, value in overrides.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=False)
    return hydra.utils.instantiate(config)


def small(name: str, in_channels: int = 3) -> FCOS:
    """The published backbone with a narrow neck and head."""
    return from_config(
        name,
        in_channels=in_channels,
        neck__out_channels=16,
        head__feat_channels=16,
        head__stacked_convs=1,
        head__norm_groups=4,
    )


class FCOSTester(NetTester):
    name: str

    def build(self, in_channels: int = 3) -> nn.Module:
        return small(self.name, in_channels)

    def outputs(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        out = net(images)
        return [*out["cls_logits"], *out["ltrb"], *out["centerness_logits"]]

    def ready(self, in_channels: int = 3) -> nn.Module:
        net = super().ready(in_channels)
        with torch.no_grad():
            net.head.ltrb.bias += 1.0  # the ReLU of the single cell of P7 must not hide its gradient
        return net

    def check_shapes(self, net: nn.Module, images: Tensor, outputs: list[Tensor]) -> None:
        batch, _, height, width = images.shape
        cells = [math.ceil(height / s) * math.ceil(width / s) for s in STRIDES]
        assert [tuple(x.shape) for x in outputs] == [
            *((batch, n, 4) for n in cells),
            *((batch, n, 4) for n in cells),
            *((batch, n) for n in cells),
        ]
        assert all((x >= 0).all() for x in outputs[5:10])


class TestR18PAFPN(FCOSTester):
    name = "fcos_r18_pafpn"


class TestR50FPN(FCOSTester):
    name = "fcos_r50_fpn"


class TestSwinTFPN(FCOSTester):
    name = "fcos_swin_t_fpn"


@pytest.mark.parametrize("name", COUNTS)
def test_config_stands_alone_and_has_the_published_size(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert list(config)[:2] == ["num_classes", "in_channels"]
    assert config.num_classes == 4 and config.in_channels == 3
    assert config.backbone.pretrained is False
    assert "${" not in text and "defaults" not in config
    net = from_config(name)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[name]
    assert all(p.requires_grad for p in net.parameters())
    assert net.strides == STRIDES
    assert net.regress_ranges == ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))


def train_step(net: FCOS, images: Tensor) -> None:
    out = net.train()(images)
    torch.stack([x.square().mean() for key in ("cls_logits", "ltrb") for x in out[key]]).sum().backward()


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("size", [(256, 256), (480, 640)])
def test_published_net_trains_at_batch_one(name, size):
    net = from_config(name)
    train_step(net, torch.rand(1, 3, *size))
    assert all(p.grad is not None for n, p in net.named_parameters() if "centerness" not in n)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_published_net_trains_on_a_whole_field(name):
    train_step(from_config(name), torch.rand(1, 3, 1444, 1444))


def test_initialisation():
    torch.manual_seed(0)  # the mean of a few random logits strays by more than a tenth now and then
    head = FCOSHead(in_channels=256, num_classes=4, strides=STRIDES)
    convolutions = {n: m for n, m in head.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convolutions) == 4 + 4 + 3
    for name, module in convolutions.items():
        assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert abs(module.weight.mean().item()) < 1e-3
        expected = -4.59512 if name == "cls_logits" else 0.0
        torch.testing.assert_close(module.bias, torch.full_like(module.bias, expected), rtol=0, atol=1e-5)
    assert head.scales.tolist() == [1.0] * 5
    logits, _, _ = head([torch.randn(1, 256, 4, 4) for _ in STRIDES])
    assert torch.cat(logits, 1).sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_head_literally():
    """Shared towers, centerness on the regression tower, relu(scale · raw) · stride, row-major cells."""
    torch.manual_seed(0)
    head = FCOSHead(8, 3, strides=(4, 8), feat_channels=8, stacked_convs=2, norm_groups=2)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.5, 0.5]))
        head.ltrb.weight.mul_(100)
    features = [torch.randn(2, 8, 3, 5), torch.randn(2, 8, 2, 3)]
    cls_logits, ltrb, centerness = head(features)
    for level, (feature, stride, scale) in enumerate(zip(features, (4, 8), (1.5, 0.5), strict=True)):
        x = y = feature
        for conv, norm in ((0, 1), (3, 4)):
            x, y = head.cls_tower[conv](x), head.reg_tower[conv](y)
            x = F.relu(F.group_norm(x, 2, head.cls_tower[norm].weight, head.cls_tower[norm].bias))
            y = F.relu(F.group_norm(y, 2, head.reg_tower[norm].weight, head.reg_tower[norm].bias))
        width = feature.shape[3]
        for row in range(feature.shape[2]):
            for column in range(width):
                cell = row * width + column
                close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
                close(cls_logits[level][:, cell], head.cls_logits(x)[:, :, row, column])
                close(centerness[level][:, cell], head.centerness(y)[:, 0, row, column])
                distances = (scale * head.ltrb(y)[:, :, row, column]).clamp(min=0) * stride
                close(ltrb[level][:, cell], distances)
    assert (ltrb[0] == 0).any() and (ltrb[0] > 0).any()


def test_fpn_literally():
    torch.manual_seed(0)
    neck = FPN([4, 6, 8, 10], out_channels=5, start_level=1, num_outs=5)
    c = [torch.randn(1, n, s, s + 1) for n, s in ((4, 16), (6, 8), (8, 4), (10, 2))]
    inner = [m[0] for m in neck.pyramid.inner_blocks]
    smooth = [m[0] for m in neck.pyramid.layer_blocks]
    p5 = inner[2](c[3])
    p4 = inner[1](c[2]) + F.interpolate(p5, size=c[2].shape[-2:], mode="nearest")
    p3 = inner[0](c[1]) + F.interpolate(p4, size=c[1].shape[-2:], mode="nearest")
    expected = [smooth[0](p3), smooth[1](p4), smooth[2](p5)]
    expected.append(neck.extra[0](expected[-1]))
    expected.append(neck.extra[1](F.relu(expected[-1])))
    for a, b in zip(neck(c), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert neck.output_strides([4, 8, 16, 32]) == STRIDES


def test_pafpn_literally():
    torch.manual_seed(0)
    neck = PAFPN([6, 8, 10], out_channels=5, num_outs=4)
    c = [torch.randn(1, n, s, s) for n, s in ((6, 9), (8, 5), (10, 3))]
    n3, n4, n5 = neck.pyramid(dict(zip("abc", c, strict=True))).values()
    n4 = n4 + neck.down[0](n3)
    n5 = n5 + neck.down[1](n4)
    expected = [n3, neck.smooth[0](n4), neck.smooth[1](n5)]
    expected.append(neck.extra[0](expected[-1]))
    for a, b in zip(neck(c), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("neck", [FPN, PAFPN])
def test_neck_initialisation_is_xavier_uniform(neck):
    for module in neck([64, 128, 256], out_channels=64).modules():
        if isinstance(module, nn.Conv2d):
            cells = module.kernel_size[0] * module.kernel_size[1]
            bound = math.sqrt(6 / (cells * (module.in_channels + module.out_channels)))
            assert bound * 0.98 < module.weight.abs().max() <= bound
            assert not module.bias.any()


def test_a_padded_batch_has_the_image_s_own_cells():
    net = small("fcos_r18_pafpn").eval()
    height, width = 70, 101
    with torch.no_grad():
        alone = net(torch.rand(1, 3, height, width))["points"]
        padded = net(torch.rand(1, 3, 96, 160))["points"]
    valid = valid_points(padded, net.strides, (height, width))
    for a, b, mask in zip(alone, padded, valid, strict=True):
        assert torch.equal(a, b[mask])


def test_regress_ranges_scale_leaves_the_open_ends():
    net = from_config("fcos_r18_pafpn", regress_range_scale=0.25)
    assert net.regress_ranges == ((-1, 16), (16, 32), (32, 64), (64, 128), (128, 1e8))


def test_levels_follow_the_config():
    """A stride-4 level by config alone."""
    ranges = [[-1, 32], [32, 64], [64, 128], [128, 256], [256, 512], [512, 1e8]]
    net = from_config("fcos_r18_pafpn", neck__start_level=0, neck__num_outs=6, regress_ranges=ranges)
    assert net.strides == (4, *STRIDES)
    assert len(net.eval()(torch.rand(1, 3, 64, 64))["points"]) == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"neck__num_outs": 4}, "regress_ranges has 5 entries.*4 levels"),
        ({"neck__num_outs": 2}, "num_outs"),
        ({"neck__start_level": 4}, "start_level"),
        ({"head__norm_groups": 7}, "norm_groups"),
        ({"regress_range_scale": 0}, "regress_range_scale"),
        ({"backbone__name": "resnet18x"}, "backbone.name"),
    ],
)
def test_wrong_configs_name_the_key(overrides, message):
    with pytest.raises(Exception, match=message) as error:
        from_config("fcos_r18_pafpn", **overrides)
    assert isinstance(error.value.__cause__ or error.value, UserError)  # Hydra wraps what a constructor raises


def test_wrong_images_are_refused():
    net = FCOS(
        num_classes=2,
        in_channels=1,
        backbone=partial(TimmBackbone, name="resnet18", out_indices=(2, 3, 4)),
        neck=partial(FPN, out_channels=8, num_outs=5),
        head=partial(FCOSHead, feat_channels=8, stacked_convs=0, norm_groups=2),
    )
    with pytest.raises(ValueError, match="in_channels"):
        net(torch.rand(1, 3, 64, 64))
