"""The networks of the segmentation family: sizes that paper B states, shapes, gradients."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.baselines import FCN, DeepLabV3Plus, DeepResUNet, PSPNet, UNet
from hemolens.nets.resunet import ResUnet

from .base_tester import NetTester

# Paper B, Table 3: three input channels, five classes.
PAPER_B: dict[Callable[..., nn.Module], int] = {
    ResUnet: 73_688_197,
    UNet: 54_424_581,
    DeepLabV3Plus: 39_757_733,
    FCN: 18_643_845,
    PSPNet: 65_700_293,
    DeepResUNet: 13_043_269,
}


@pytest.mark.parametrize("net", PAPER_B, ids=lambda net: net.__name__)
def test_parameters_are_those_of_the_paper(net: Callable[..., nn.Module]) -> None:
    with torch.device("meta"):
        built = net(5, 3)
    assert sum(parameter.numel() for parameter in built.parameters()) == PAPER_B[net]


class SegmentationTester(NetTester):
    sizes = ((64, 96), (128, 64))
    batch = 2  # some normalise features of one pixel

    def outputs(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        return [net(images)]

    def check_shapes(self, net: nn.Module, images: Tensor, outputs: list[Tensor]) -> None:
        assert outputs[0].shape == (len(images), 5, *images.shape[-2:])


class TestResUnet(SegmentationTester):
    def build(self, in_channels: int = 3) -> nn.Module:
        return ResUnet(5, in_channels, encoder="resnet18", decoder_channels=(32, 16, 16, 8, 8))

    def test_encoder_and_decoder_are_loadable_apart(self) -> None:
        one, other = self.ready(), self.build()
        other.encoder.load_state_dict(one.encoder.state_dict())
        other.decoder.load_state_dict(one.decoder.state_dict())
        other.head.load_state_dict(one.head.state_dict())
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(one.eval()(images), other.eval()(images))

    def test_weights_are_a_file_or_none(self, tmp_path: Path) -> None:
        for none in (None, False):  # false is how loading a checkpoint says it, as of the other networks
            assert ResUnet(encoder="resnet18", pretrained=none).stride == 32
        with pytest.raises(UserError, match=r"net\.pretrained=true: give a file"):
            ResUnet(encoder="resnet18", pretrained=True)
        with pytest.raises(UserError, match=r"gone\.pth"):
            ResUnet(encoder="resnet18", pretrained=tmp_path / "gone.pth")

    def test_unknown_encoders_are_named(self) -> None:
        with pytest.raises(UserError, match=r"resnet1800.*net\.encoder"):
            ResUnet(encoder="resnet1800")


class TestUNet(SegmentationTester):
    def build(self, in_channels: int = 3) -> nn.Module:
        return UNet(5, in_channels, width=8, depth=5)


class TestDeepLabV3Plus(SegmentationTester):
    sizes = ((64, 96), (50, 77))

    def build(self, in_channels: int = 3) -> nn.Module:
        return DeepLabV3Plus(5, in_channels, encoder="resnet18", width=16)


class TestFCN(SegmentationTester):
    def build(self, in_channels: int = 3) -> nn.Module:
        return FCN(5, in_channels, encoder="vgg11", widths=(512, 256, 16, 8, 8))


class TestPSPNet(SegmentationTester):
    sizes = ((64, 96), (50, 77))

    def build(self, in_channels: int = 3) -> nn.Module:
        return PSPNet(5, in_channels, encoder="resnet18", width=32)


class TestDeepResUNet(SegmentationTester):
    def build(self, in_channels: int = 3) -> nn.Module:
        return DeepResUNet(5, in_channels, widths=(8, 16, 32, 64))


@pytest.mark.parametrize("net", [UNet(width=4, depth=3), DeepResUNet(widths=(4, 8, 16))], ids=["unet", "deep_resunet"])
def test_stride_is_what_sizes_must_be_multiples_of(net: nn.Module) -> None:
    stride = int(net.stride)  # type: ignore[arg-type]
    net.eval()
    assert net(torch.rand(1, 1, 3 * stride, 2 * stride)).shape[-2:] == (3 * stride, 2 * stride)
