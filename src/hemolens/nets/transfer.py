"""Start a network's encoder and decoder from those of another training, self-supervised or not."""

import logging
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hemolens.errors import UserError

logger = logging.getLogger(__name__)

PARTS = ("encoder", "decoder")
_PREFIXES = ("net.query.", "net.")  # of MoCo's network, of a segmentation's


def load_parts(net: nn.Module, path: str | PathLike[str], parts: Sequence[str] = PARTS) -> None:
    """Load whole parts of a network from a hemolens checkpoint, in place, and log what came and what did not.

    A first convolution for three channels is summed to one, as timm does, so that a grey image whose channels were
    equal gives what it gave; one for one channel is repeated and divided by the number of channels.

    Args:
        net: has the attributes named in ``parts``.
        path: checkpoint of a self-supervised (``MoCoReconstructionTask``) or a segmentation run with the same encoder
            and decoder.
        parts: of ``encoder`` and ``decoder``; what is left out, and the head, keeps its own values.

    Raises:
        UserError: no such part; a file that is missing, unreadable or of another kind; or a part of which the file
            lacks a tensor, has another shape or has more: nothing is loaded then.
    """
    if not parts or (unknown := sorted(set(parts) - set(PARTS))):
        told = ", ".join(unknown) if parts else "none"
        raise UserError(f"net.init_parts has {told}: choose from {', '.join(PARTS)}")
    stored, prefix = _read(path)
    report: list[str] = []
    found: dict[str, dict[str, Tensor]] = {}
    for part in parts:
        own = getattr(net, part).state_dict()
        start = f"{prefix}{part}."
        given = {name[len(start) :]: value for name, value in stored.items() if name.startswith(start)}
        reshaped = _fit_channels(getattr(net, part), given) if part == "encoder" else None
        _refuse_other(own, given, path=path, part=part)
        found[part] = given
        report.append(f"{part} {len(given)} tensors" + (f" (reshaped: {reshaped})" if reshaped else ""))
    for part, given in found.items():
        getattr(net, part).load_state_dict(given)
    rest = [name for name, _ in net.named_children() if name not in parts]
    logger.info("net.init_from=%s: loaded %s; starts anew: %s", path, ", ".join(report), ", ".join(rest) or "nothing")


def _read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """Tensors by name, and what their names begin with."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"net.init_from={fspath(path)} does not exist: give a checkpoint, or null to start at random")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        stored = {name: value for name, value in content["state_dict"].items() if isinstance(value, Tensor)}
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise UserError(
            f"net.init_from={fspath(path)} is no readable hemolens checkpoint ({type(error).__name__}): give a "
            "best.ckpt or last.ckpt (files of encoder weights alone: net.pretrained)"
        ) from error
    for prefix in _PREFIXES:
        if any(name.startswith(f"{prefix}encoder.") for name in stored):
            return stored, prefix
    raise UserError(
        f"net.init_from={fspath(path)} holds no encoder of a ResUnet (its first names: {sorted(stored)[:3]}): give a "
        "checkpoint of experiment=ssl_… or of a segmentation with net=resunet or resunet18"
    )


def _fit_channels(encoder: nn.Module, given: dict[str, Tensor]) -> str | None:
    """Bring the first convolution to the network's channels; what was done, if anything."""
    name = next((f"{n}.weight" for n, module in encoder.named_modules() if isinstance(module, nn.Conv2d)), None)
    if name is None or name not in given or given[name].ndim != 4:
        return None
    weight, wanted = given[name], encoder.state_dict()[name].shape[1]
    had = weight.shape[1]
    if had == wanted:
        return None
    if had == 3:
        given[name] = adapt_input_conv(wanted, weight)
    elif had == 1:
        given[name] = weight.repeat(1, wanted, 1, 1) / wanted
    else:
        return None  # refused with the other shapes
    return f"{name} from {had} to {wanted} channels by {'sum' if wanted == 1 else 'repetition'}"


def _refuse_other(own: dict[str, Tensor], given: dict[str, Tensor], *, path: str | PathLike[str], part: str) -> None:
    missing, more = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    other = [name for name in sorted(set(own) & set(given)) if own[name].shape != given[name].shape]
    if not (missing or more or other):
        return
    told = [f"{len(missing)} tensors are missing ({missing[0]})"] if missing else []
    told += [f"{len(more)} are of another network ({more[0]})"] if more else []
    told += (
        [f"{len(other)} differ in shape ({other[0]}: {list(given[other[0]].shape)}, here {list(own[other[0]].shape)})"]
        if other
        else []
    )
    remedy = (
        "choose the net it was trained with (net.encoder)"
        if part == "encoder"
        else "set net.decoder_channels as there, or net.init_parts=[encoder]"
    )
    raise UserError(f"net.init_from={fspath(path)}: its {part} does not fit: {'; '.join(told)}: {remedy}")
