"""Parts of a network from another training: all of a part or a clear refusal, never some of it."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hemolens.errors import UserError
from hemolens.nets.resunet import ResUnet

DECODER = [16, 16, 8, 8, 8]


def net(**options: Any) -> ResUnet:
    given: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "encoder": "resnet10t", "decoder_channels": DECODER}
    return ResUnet(**(given | options)).eval()


def checkpoint(folder: Path, source: ResUnet, *, prefix: str = "net.query.", **changes: Tensor | None) -> Path:
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    weights |= {name: value for name, value in changes.items() if value is not None}
    for name in [name for name, value in changes.items() if value is None]:
        del weights[name]
    torch.save({"state_dict": weights | {"net.queue.keys": torch.zeros(2, 2)}}, folder / "best.ckpt")
    return folder / "best.ckpt"


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("prefix", ["net.query.", "net."])
def test_encoder_and_decoder_come_and_the_head_stays(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = net(num_classes=1)
    with caplog.at_level(logging.INFO):
        made = net(init_from=checkpoint(tmp_path, source, prefix=prefix))
    assert same(made.encoder, source.encoder) and same(made.decoder, source.decoder)
    assert made.head.weight.shape[0] == 3
    assert "encoder" in caplog.text and "starts anew: head" in caplog.text


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_part_alone(tmp_path: Path, part: str) -> None:
    source = net()
    made = net(init_from=checkpoint(tmp_path, source), init_parts=[part])
    other = "decoder" if part == "encoder" else "encoder"
    assert same(getattr(made, part), getattr(source, part)) and not same(getattr(made, other), getattr(source, other))


def test_grey_images_give_what_the_colour_network_gave(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, grey = net(in_channels=3), torch.randn(2, 1, 64, 64)
    with caplog.at_level(logging.INFO):
        made = net(init_from=checkpoint(tmp_path, source))
    for one, other in zip(made.encoder(grey), source.encoder(grey.expand(-1, 3, -1, -1)), strict=True):
        if one.shape[1] > 1:  # the first of timm's maps may be the image
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert "from 3 to 1 channels by sum" in caplog.text


def test_colour_images_give_what_the_grey_network_gave(tmp_path: Path) -> None:
    source, grey = net(), torch.randn(2, 1, 64, 64)
    made = net(in_channels=3, init_from=checkpoint(tmp_path, source))
    torch.testing.assert_close(
        made.encoder(grey.expand(-1, 3, -1, -1))[-1], source.encoder(grey)[-1], atol=1e-4, rtol=1e-4
    )


def test_what_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    source = net()
    name = next(name for name in source.state_dict() if name.startswith("encoder"))
    with pytest.raises(UserError, match=r"best\.ckpt: its encoder does not fit: 1 tensors are missing"):
        net(init_from=checkpoint(tmp_path, source, **{f"net.query.{name}": None}))
    with pytest.raises(UserError, match=r"1 are of another network \(more\)"):
        net(init_from=checkpoint(tmp_path, source, **{"net.query.encoder.more": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"its decoder does not fit.*net\.init_parts=\[encoder\]"):
        net(init_from=checkpoint(tmp_path, source), decoder_channels=[16, 16, 8, 8, 4])
    with pytest.raises(UserError, match=r"its encoder does not fit.*net\.encoder"):
        net(init_from=checkpoint(tmp_path, source), encoder="resnet18")


def test_files_and_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ckpt does not exist"):
        net(init_from=tmp_path / "none.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"bad\.ckpt is no readable hemolens checkpoint"):
        net(init_from=tmp_path / "bad.ckpt")
    torch.save({"state_dict": {"net.last": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds no encoder of a ResUnet"):
        net(init_from=tmp_path / "other.ckpt")
    path = checkpoint(tmp_path, net())
    for parts in (["head"], []):
        with pytest.raises(UserError, match="choose from encoder, decoder"):
            net(init_from=path, init_parts=parts)
    with pytest.raises(UserError, match="both give an encoder"):
        net(init_from=path, pretrained="weights.pth")
