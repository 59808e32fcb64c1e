"""The timm classifier: the base tester, weights from a file, one clear error where there is nothing to download."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.classifier import TimmClassifier

from .base_tester import NetTester


class TestClassifier(NetTester):
    def build(self, in_channels: int = 3) -> nn.Module:
        return TimmClassifier(5, in_channels, "resnet18")

    def outputs(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        return [net(images)]

    def check_shapes(self, net: nn.Module, images: Tensor, outputs: list[Tensor]) -> None:
        assert outputs[0].shape == (len(images), 5)


def imagenet_like() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("resnet18", num_classes=1000)


def test_weights_of_a_file_but_not_its_classifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = imagenet_like()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    grey = TimmClassifier(4, 1, "resnet18", pretrained=tmp_path / "weights.pth")
    own, given = grey.model.state_dict(), source.state_dict()
    torch.testing.assert_close(own["layer3.0.conv1.weight"], given["layer3.0.conv1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(own["conv1.weight"], given["conv1.weight"].sum(1, keepdim=True))  # colour to grey
    assert own["fc.weight"].shape == (4, 512)
    assert "random values" not in caplog.text


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(imagenet_like().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"belongs to another network, correct net\.pretrained or net\.name"):
        TimmClassifier(4, 3, "resnet50", pretrained=tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"do not exist: correct net\.pretrained"):
        TimmClassifier(4, 3, "resnet18", pretrained=tmp_path / "absent.pth")


def test_unknown_network_and_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"can't build .*'resnet18x'.*net\.name"):
        TimmClassifier(4, 3, "resnet18x")

    def no_network(name: str, **arguments: object) -> None:
        assert arguments["pretrained"] is True
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UserError, match=r"download.*no route.*net\.pretrained=<path>"):
        TimmClassifier(4, 3, "resnet18", pretrained=True)
