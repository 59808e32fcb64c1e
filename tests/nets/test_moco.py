"""Momentum contrast: the queue, the momentum networks, and a decoder that fits the segmenting ResUnet."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hemolens.errors import UserError
from hemolens.nets.moco import KeyQueue, MoCo, gathered, process, share_of
from hemolens.nets.resunet import ResUnet

from .base_tester import NetTester

CHANNELS = (16, 16, 8, 8, 8)
TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": CHANNELS,
    "projection_features": 8,
    "hidden_features": 16,
    "queue_size": 12,
    "momentum": 0.9,
}


def tiny(**more: Any) -> MoCo:
    torch.manual_seed(0)
    return MoCo(**({"num_classes": 3, "in_channels": 1} | TINY | more))


class TestMoCo(NetTester):
    sizes = ((64, 96), (128, 64))
    batch = 2

    def build(self, in_channels: int = 3) -> nn.Module:
        return MoCo(5, in_channels, **TINY)

    def outputs(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        assert isinstance(net, MoCo)
        queries, maps = net.encode(images)
        return [net.reconstruct(maps), queries, net.features(images), net.encode_keys(images)[0]]

    def check_shapes(self, net: nn.Module, images: Tensor, outputs: list[Tensor]) -> None:
        count = len(images)
        assert [tuple(x.shape) for x in outputs] == [tuple(images.shape), (count, 8), (count, 96), (count, 8)]
        for unit in (outputs[1], outputs[3]):
            torch.testing.assert_close(unit.norm(dim=1), torch.ones(count))
        torch.testing.assert_close(net(images), outputs[0])

    def trained(self, net: nn.Module) -> None:
        """A gradient in every parameter, but for the momentum networks."""
        for name, parameter in net.named_parameters():
            if name.startswith("key_"):
                assert parameter.grad is None and not parameter.requires_grad, name
            else:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
                assert parameter.grad.abs().sum() > 0, name

    def test_gradient_reaches_every_parameter(self) -> None:
        net = self.ready()
        outputs = self.outputs(net, torch.rand(1, 3, 128, 160))
        torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum().backward()
        self.trained(net)

    def test_bfloat16_autocast_trains_in_channels_last(self) -> None:
        net = self.ready().train().to(memory_format=torch.channels_last)
        images = torch.rand(self.batch, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self.outputs(net, images)
        assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in outputs)
        torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum().backward()
        self.trained(net)


@pytest.mark.parametrize("counts", [(5,) * 9, (12, 1, 11, 12), (7, 3, 9, 2, 12, 4)])
def test_the_queue_replaces_the_oldest_keys(counts: tuple[int, ...]) -> None:
    queue = KeyQueue(12, 4)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(12))
    rows = list(queue.keys.clone())
    place = 0
    for number, count in enumerate(counts):
        keys = torch.full((count, 4), float(number)) + torch.arange(count)[:, None] / 100
        queue.enqueue(keys)
        for key in keys:  # one by one
            rows[place] = key
            place = (place + 1) % 12
        assert torch.equal(queue.keys, torch.stack(rows)) and int(queue.pointer) == place
    assert set(queue.state_dict()) == {"keys", "pointer"}
    assert queue.pointer.dtype == torch.int64


def test_what_does_not_fit_the_queue_is_refused() -> None:
    queue = KeyQueue(12, 4)
    with pytest.raises(UserError, match=r"13 keys a step.*net\.queue_size=12"):
        queue.enqueue(torch.ones(13, 4))
    with pytest.raises(UserError, match=r"keys are \[2, 5\]: give \[N, 4\]"):
        queue.enqueue(torch.ones(2, 5))
    with pytest.raises(UserError, match=r"net\.queue_size=0"):
        KeyQueue(0, 4)


@pytest.mark.parametrize("norm", [False, True])
def test_momentum_networks_follow_by_their_parameters_alone(norm: bool) -> None:
    net = tiny(momentum=0.75, projection_norm=norm).train()
    pairs = [(net.key_encoder, net.query.encoder), (net.key_projection, net.projection)]
    for key, query in pairs:
        for (name, one), other in zip(key.state_dict().items(), query.state_dict().values(), strict=True):
            assert torch.equal(one, other), name
    expected = [p.detach().double().numpy() for key, _ in pairs for p in key.parameters()]
    for _ in range(3):
        with torch.no_grad():
            for parameter in net.query.parameters():
                parameter.add_(torch.randn_like(parameter))
            net.encode(torch.rand(2, 1, 64, 64))  # moves the query encoder's batch statistics
        buffers = {name: value.clone() for name, value in net.key_encoder.named_buffers()}
        net.update_momentum()
        now = [p.detach().double().numpy() for _, query in pairs for p in query.parameters()]
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, now, strict=True)]
        found = [p.detach().double().numpy() for key, _ in pairs for p in key.parameters()]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        for name, value in net.key_encoder.named_buffers():
            assert torch.equal(value, buffers[name]), name
    net.encode_keys(torch.rand(2, 1, 64, 64))
    assert any(not torch.equal(value, buffers[name]) for name, value in net.key_encoder.named_buffers())


def test_batch_norms_in_the_projection_part_the_queries_of_a_new_encoder() -> None:
    images = torch.rand(32, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    spread = {}
    for norm in (False, True):
        queries = tiny(projection_norm=norm).train().encode(images)[0]
        torch.testing.assert_close(queries.norm(dim=1), torch.ones(32))
        spread[norm] = 1 - (queries @ queries.T).mean().item()
    assert spread[False] < 0.1 and spread[True] > 0.9
    with pytest.raises(UserError, match=r"net\.projection_norm=true wants data\.batch_size of 2"):
        tiny(projection_norm=True).train().encode(images[:1])
    assert tiny(projection_norm=True).eval().encode(images[:1])[0].shape == (1, 8)


def test_keys_have_no_gradient_but_the_decoder_learns_from_their_maps() -> None:
    net = tiny().train()
    keys, maps = net.encode_keys(torch.rand(2, 1, 64, 64, requires_grad=True))
    assert not keys.requires_grad and not any(part.requires_grad for part in maps[1:])  # the first are the images
    net.reconstruct(maps).square().mean().backward()
    assert all(p.grad is None for p in (*net.query.encoder.parameters(), *net.projection.parameters()))
    assert all(p.grad is not None for p in (*net.query.decoder.parameters(), *net.query.head.parameters()))


def test_weights_fit_the_segmenting_resunet() -> None:
    net, other = tiny().eval(), ResUnet(3, 1, encoder="test_resnet", decoder_channels=CHANNELS).eval()
    state = net.state_dict()
    for part in ("encoder", "decoder"):
        name = f"query.{part}."
        found = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        getattr(other, part).load_state_dict(found)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        for one, two in zip(net.maps(images), other.encoder(images), strict=True):
            assert torch.equal(one, two)
        assert torch.equal(net.query.decoder(net.maps(images)), other.decoder(other.encoder(images)))


def test_without_skips_the_decoder_sees_the_deepest_maps_alone() -> None:
    nets = {skips: tiny(skips=skips).eval() for skips in (False, True)}
    state = nets[False].state_dict()
    nets[True].load_state_dict(state)  # the same parameters
    assert [len(list(net.parameters())) for net in nets.values()] == [len(list(nets[True].parameters()))] * 2
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        maps = nets[True].maps(images)
        others = [torch.rand_like(part) for part in maps[:-1]] + [maps[-1]]
        made = {skips: net.reconstruct(maps) for skips, net in nets.items()}
        changed = {skips: net.reconstruct(others) for skips, net in nets.items()}
    assert not torch.allclose(made[False], made[True], atol=1e-3)
    assert torch.equal(made[False], changed[False]) and not torch.allclose(made[True], changed[True], atol=1e-3)


def test_one_process_gathers_what_it_has() -> None:
    rows = torch.rand(4, 3, requires_grad=True)
    assert process() == (0, 1)
    assert torch.equal(gathered(rows), rows) and not gathered(rows).requires_grad
    order = torch.tensor([3, 0, 2, 5, 1, 4])
    shares = [share_of(order, rank, 3) for rank in range(3)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(), order)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"momentum": 1.0}, r"net\.momentum=1\.0"),
        ({"momentum": -0.1}, r"net\.momentum=-0\.1"),
        ({"hidden_features": 0}, r"net\.hidden_features=0"),
        ({"projection_features": 0}, r"net\.projection_features=0"),
        ({"encoder": "resnet1800"}, r"resnet1800.*net\.encoder"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        tiny(**wrong)
