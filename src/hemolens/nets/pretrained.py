"""timm networks with clear errors, and weights for them from a local file, whatever public naming they come in."""

import logging
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import timm
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from hemolens.errors import UserError

logger = logging.getLogger(__name__)

_SUFFIXES = (".pth", ".pt", ".safetensors")

# torchvision's Swin → timm's. torchvision counts patch mergings as stages of their own; timm keeps each at
# the start of a stage.
_TORCHVISION_SWIN = (
    (re.compile(r"^features\.0\.0\."), "patch_embed.proj."),
    (re.compile(r"^features\.0\.2\."), "patch_embed.norm."),
    (re.compile(r"^features\.(2|4|6)\."), lambda m: f"layers.{int(m[1]) // 2}.downsample."),
    (re.compile(r"^features\.(1|3|5|7)\."), lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (re.compile(r"\.mlp\.0\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.3\."), ".mlp.fc2."),
)


def create_timm_model(
    name: str, *, kind: str, key: str, settings: str, pretrained: bool, options: Mapping[str, Any], **fixed: Any
) -> Any:
    """``timm.create_model`` with one clear error.

    Args:
        name: timm's name of the network.
        kind: what it is here, for the message: ``network`` or ``backbone``.
        key: its part of the config, for the message.
        settings: the key below it that may be wrong beside the name.
        pretrained: with the hub's weights.
        options, **fixed: arguments of ``timm.create_model``; one that is in both is an error too.

    Raises:
        UserError: no such network, settings that do not fit it, or weights that cannot be downloaded.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, **fixed, **options)
    except Exception as error:  # timm, the hub and the HTTP stack each raise their own kinds
        remedy = (
            f"check the network, or give a local file: {key}.pretrained=<path>"
            if pretrained
            else f"check {key}.name (timm.list_models()) and {key}.{settings}"
        )
        what = "download weights for" if pretrained else "build"
        raise UserError(f"can't {what} the timm {kind} {name!r}: {error}; {remedy}") from error


def load_pretrained(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    name: str,
    in_channels: int,
    key: str = "net.backbone",
    head: str | None = None,
) -> None:
    """Load a state dict into a timm network, in place, and log what was loaded.

    Accepts timm's names, torchvision's (ResNets, Swin) and those of the first Swin release; a dict of tensors
    or a checkpoint that keeps it under ``state_dict``, ``model`` or an EMA of these. A first convolution for
    three channels is summed (1 channel) or repeated and rescaled (others) to ``in_channels``, as timm does.

    Args:
        model: The network, as timm builds it, with ``features_only=True`` or whole.
        path: ``.pth``, ``.pt`` (read with ``weights_only=True``) or ``.safetensors``.
        name: Name of the network, for messages.
        in_channels: Channels of the first convolution.
        key: Where the config names network and file, for messages.
        head: First part of the names of the classifier, which keeps its own values; None where there is none.

    Raises:
        UserError: The file is missing or unreadable, holds nothing for this network, or another one's shapes.
    """
    state = _rename(_read(path, key))
    own_head = () if head is None else (f"{head}.",)
    # features_only flattens the first two levels of names: layers.0.blocks → layers_0.blocks
    own = {k.replace("_", "."): k for k in model.state_dict() if not k.startswith(own_head)}
    found = {own[k.replace("_", ".")]: v for k, v in state.items() if k.replace("_", ".") in own}
    unexpected = sorted(k for k in state if k.replace("_", ".") not in own)
    if not found:
        raise UserError(
            f"{fspath(path)} holds nothing for the network {name!r} (its first names: {unexpected[:3]}, "
            f"expected such as {list(own.values())[:3]}): give a state dict of {name!r} with timm's or "
            "torchvision's names"
        )
    first = next(f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first in found and found[first].ndim == 4 and found[first].shape[1] == 3:
        found[first] = adapt_input_conv(in_channels, found[first])
    _refuse_other_shapes(model, found, path, name, key)
    missing = [
        k
        for k in model.load_state_dict(found, strict=False).missing_keys
        if "num_batches" not in k and not k.startswith(own_head)
    ]
    logger.info(
        "%s: loaded %d tensors into %s; missing: %s; not used: %s",
        *(fspath(path), len(found), name, missing or "none", unexpected or "none"),
    )
    if missing:
        logger.warning("%s: %d tensors of %s keep their random values", fspath(path), len(missing), name)


def _read(path: str | PathLike[str], key: str) -> dict[str, Tensor]:
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"pretrained weights {file} do not exist: correct {key}.pretrained "
            "(a file, true for timm's own, false for none)"
        )
    if file.suffix not in _SUFFIXES:
        raise UserError(f"pretrained weights {file}: expected one of {', '.join(_SUFFIXES)}")
    try:
        state = dict(load_state_dict(str(file), weights_only=True))
    except Exception as error:  # pickle, zip and safetensors each raise their own kinds on a damaged file
        raise UserError(
            f"can't read pretrained weights from {file}: {type(error).__name__}; expected a file written by "
            "torch.save(model.state_dict(), …) or safetensors, holding tensors only"
        ) from error
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring torchvision's and the first Swin release's names to timm's; others pass unchanged."""
    if "features.0.0.weight" in state and any("relative_position_bias_table" in key for key in state):
        for pattern, replacement in _TORCHVISION_SWIN:
            state = {pattern.sub(replacement, key): value for key, value in state.items()}
    elif "layers.0.downsample.reduction.weight" in state:  # patch merging at the end of a stage
        state = {
            re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key): value
            for key, value in state.items()
        }
    # computed from the window size, not learned
    computed = ("relative_position_index", "attn_mask")
    return {key: value for key, value in state.items() if not key.endswith(computed)}


def _refuse_other_shapes(
    model: nn.Module, found: dict[str, Tensor], path: str | PathLike[str], name: str, key: str
) -> None:
    own = model.state_dict()
    for weight, value in found.items():
        if value.shape != own[weight].shape:
            raise UserError(
                f"{fspath(path)}: {weight} is {list(value.shape)}, but {name!r} has {list(own[weight].shape)}: "
                f"the file belongs to another network, correct {key}.pretrained or {key}.name"
            )
