"""What every network has to pass, whatever its family: subclass `NetTester` and fill in four members."""

import copy
import io
from abc import ABC, abstractmethod

import pytest
import torch
from torch import Tensor, nn


class NetTester(ABC):
    # one that most strides divide, one odd
    sizes: tuple[tuple[int, int], ...] = ((64, 96), (50, 77))
    batch = 1  # images that are trained on

    @abstractmethod
    def build(self, in_channels: int = 3) -> nn.Module: ...

    @abstractmethod
    def outputs(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        """All predictions, flat."""

    @abstractmethod
    def check_shapes(self, net: nn.Module, images: Tensor, outputs: list[Tensor]) -> None: ...

    def ready(self, in_channels: int = 3) -> nn.Module:
        """The net in eval mode, moved off its initial zeros (last norm of a residual block, biases)."""
        torch.manual_seed(0)
        net = self.build(in_channels).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return net

    @pytest.mark.parametrize("in_channels", [1, 3])
    def test_shapes(self, in_channels: int) -> None:
        net = self.ready(in_channels)
        for height, width in self.sizes:
            images = torch.rand(2, in_channels, height, width)
            with torch.no_grad():
                outputs = self.outputs(net, images)
            self.check_shapes(net, images, outputs)
            assert all(torch.isfinite(x).all() for x in outputs)

    def test_gradient_reaches_every_parameter(self) -> None:
        net = self.ready()  # in eval mode: stochastic depth would switch whole blocks off
        outputs = self.outputs(net, torch.rand(1, 3, 128, 160))
        torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum().backward()
        idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert idle == []

    def test_images_of_a_batch_do_not_mix_in_eval(self) -> None:
        net, images = self.ready(), torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            both, first = self.outputs(net, images), self.outputs(net, images[:1])
        for a, b in zip(both, first, strict=True):
            torch.testing.assert_close(a[:1], b, rtol=1e-3, atol=1e-4)

    def test_save_and_load_give_equal_outputs(self) -> None:
        net, images = self.ready(), torch.rand(1, 3, 64, 64)
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        other = self.build().eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        twin = copy.deepcopy(net)  # as an average of the weights keeps it
        with torch.no_grad():
            expected = self.outputs(net, images)
            for candidate in (other, twin):
                for a, b in zip(self.outputs(candidate, images), expected, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)

    def test_channels_last_changes_nothing(self) -> None:
        net, images = self.ready(), torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            expected = self.outputs(net, images)
            net = net.to(memory_format=torch.channels_last)
            found = self.outputs(net, images.contiguous(memory_format=torch.channels_last))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

    def test_bfloat16_autocast_trains_in_channels_last(self) -> None:
        # small: CPUs without bfloat16 instructions emulate them, an order of magnitude slower
        net = self.ready().train().to(memory_format=torch.channels_last)
        images = torch.rand(self.batch, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self.outputs(net, images)
        assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in outputs)
        torch.stack([x.square().mean() for x in outputs]).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
