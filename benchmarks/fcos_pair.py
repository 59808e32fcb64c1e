"""hemolens' FCOS and torchvision's with the same weights and the same geometry, in a chosen precision and
layout."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.machine import ROOT
from hemolens.tasks.precision import cpu_has_fast_bf16

CLASSES, CHANNELS = 4, 3
CLASS_NAMES = tuple(f"class {index}" for index in range(CLASSES))
# What differs between the two networks on purpose: one learned scale a level.
EXTRA_PARAMETERS = 5
# torchvision's names -> ours
NAMES = {
    "backbone.body.": "backbone.model.",
    "backbone.fpn.inner_blocks.": "neck.pyramid.inner_blocks.",
    "backbone.fpn.layer_blocks.": "neck.pyramid.layer_blocks.",
    "backbone.fpn.extra_blocks.p6.": "neck.extra.0.",
    "backbone.fpn.extra_blocks.p7.": "neck.extra.1.",
    "head.classification_head.conv.": "head.cls_tower.",
    "head.classification_head.cls_logits.": "head.cls_logits.",
    "head.regression_head.conv.": "head.reg_tower.",
    "head.regression_head.bbox_reg.": "head.ltrb.",
    "head.regression_head.bbox_ctrness.": "head.centerness.",
}


@dataclass(frozen=True)
class Mode:
    """Precision and memory layout of a network."""

    bf16: bool
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def config(self) -> dict[str, Any]:
        """In words."""
        return {
            "dtype": "bfloat16 autocast" if self.bf16 else "float32",
            "layout": "channels_last" if self.channels_last else "NCHW",
        }


@dataclass(frozen=True)
class Variant:
    """The modes of both sides of a comparison."""

    name: str
    ours: Mode
    peer: Mode

    @property
    def any_bf16(self) -> bool:
        """Whether a side computes in bfloat16."""
        return self.ours.bf16 or self.peer.bf16

    @property
    def tolerance(self) -> float:
        """Root mean square difference that raw outputs may have, as a share of their standard deviation.

        bfloat16 keeps 8 bits, and rounding adds up over some hundred layers; a slip in a weight or a layer shows as a
        share near 1.
        """
        return 0.1 if self.any_bf16 else 1e-3

    def target(self, shipped: float) -> float | None:
        """Parity like for like; ``shipped`` is asked where bfloat16 runs in hardware, nothing elsewhere."""
        if self.name == "like_for_like":
            return 1.0
        return shipped if self.ours.bf16 else None


def variants() -> list[Variant]:
    """As hemolens ships it on this CPU against float32 NCHW, and the same mode on both sides."""
    shipped = Mode(bf16=cpu_has_fast_bf16(), channels_last=True)
    plain = Mode(bf16=False, channels_last=False)
    return [Variant("shipped", shipped, plain), Variant("like_for_like", shipped, shipped)]


class CenteredAnchors(AnchorGenerator):
    """Anchors around the centers of the cells; torchvision's own sit on their upper left corners.

    With these both networks speak of the same boxes, and their detections and losses can be compared.
    """

    def __init__(self) -> None:
        super().__init__(sizes=((8,), (16,), (32,), (64,), (128,)), aspect_ratios=((1.0,),) * 5)

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Anchors xyxy in pixels, one [N_l, 4] a level."""
        levels = super().grid_anchors(grid_sizes, strides)
        return [anchors + stride[0] / 2 for anchors, stride in zip(levels, strides, strict=True)]


def build_pair(
    size: int, mode_of_peer: Mode, *, backbone: str = "resnet50", **peer_arguments: Any
) -> tuple[nn.Module, nn.Module]:
    """Our ``fcos_r50_fpn`` and torchvision's FCOS (as its ``fcos_resnet50_fpn``) with the same random weights.

    Both get the named ResNet as their backbone.

    The output layers are rescaled so that some hundred candidates of some forty pixels reach the
    suppression, as on a field of cells; with fresh weights there would be none and decoding would cost
    nothing.

    Raises:
        AssertionError: the parameter counts differ by more than the scales.
    """
    torch.manual_seed(0)
    features = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    peer = FCOS(
        features,
        num_classes=CLASSES,
        min_size=size,  # the default of 800 would do 2.5 times the work
        max_size=size,
        image_mean=[0.0] * CHANNELS,
        image_std=[1.0] * CHANNELS,
        anchor_generator=CenteredAnchors(),
        **peer_arguments,
    )
    with torch.no_grad():
        head: Any = peer.head
        head.classification_head.cls_logits.weight.mul_(6)
        head.classification_head.cls_logits.bias.fill_(-5.5)
        head.regression_head.bbox_reg.bias.fill_(2.5)
    ours = build_net("fcos_r50_fpn", {"backbone": {"name": backbone}})
    state = {_our_name(name): value for name, value in peer.state_dict().items()}
    ours.load_state_dict(state | {"head.scales": torch.ones(EXTRA_PARAMETERS)})
    extra = count(ours) - count(peer)
    assert extra == EXTRA_PARAMETERS, f"parameter counts differ by {extra}, not by {EXTRA_PARAMETERS} scales"
    return ours, peer.to(memory_format=mode_of_peer.memory_format)


def build_net(name: str, changes: dict[str, Any] | None = None, *, in_channels: int = CHANNELS) -> nn.Module:
    """A network from its configuration file, with other values where given."""
    config = OmegaConf.merge(OmegaConf.load(ROOT / "configs" / "net" / f"{name}.yaml"), changes or {})
    net: nn.Module = hydra.utils.instantiate(config, num_classes=CLASSES, in_channels=in_channels)
    return net


def work_of(net: nn.Module, size: int) -> dict[str, Any]:
    """What both sides compute, in words."""
    return {
        "image": f"1×{CHANNELS}×{size}×{size}",
        "classes": CLASSES,
        "parameters": count(net),
        "of which the peer lacks": EXTRA_PARAMETERS,
        "bfloat16 in this CPU's hardware": cpu_has_fast_bf16(),  # without it hemolens ships float32
    }


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def cell_targets(size: int, boxes: int) -> dict[str, Tensor]:
    """Made-up cells: boxes of 20 to 80 pixels anywhere in a square image."""
    generator = torch.Generator().manual_seed(1)
    sides = 20 + 60 * torch.rand(boxes, 2, generator=generator)
    corner = torch.rand(boxes, 2, generator=generator) * (size - sides)
    labels = torch.randint(CLASSES, (boxes,), generator=generator)
    return {"boxes": torch.cat([corner, corner + sides], dim=1), "labels": labels}


def made_up_image(size: int) -> Tensor:
    """Float32 [1, 3, size, size] in 0..1."""
    return torch.rand(1, CHANNELS, size, size, generator=torch.Generator().manual_seed(2))


def compare_levels(ours: dict[str, Tensor], peer: dict[str, Tensor], tolerance: float) -> dict[str, float]:
    """Root mean square difference of each raw output as a share of the peer's standard deviation.

    Raises:
        AssertionError: the shapes (so the number of points) differ, or a difference exceeds the tolerance.
    """
    found = {}
    for key, theirs in peer.items():
        assert ours[key].shape == theirs.shape, f"{key}: {tuple(ours[key].shape)} and {tuple(theirs.shape)}"
        difference = (ours[key].float() - theirs.float()).square().mean().sqrt() / theirs.float().std()
        assert difference <= tolerance, f"{key} differs by {difference:.2g} of its standard deviation"
        found[key] = float(f"{difference:.2g}")
    return found


def our_levels(output: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Raw outputs of our network with the levels joined: logits, centerness, distances in pixels."""
    keys = ("cls_logits", "centerness_logits", "ltrb")
    return {key: torch.cat(output[key], dim=1).detach() for key in keys}


def peer_levels(head_output: dict[str, Tensor], strides: Tensor) -> dict[str, Tensor]:
    """The same of torchvision's head; its distances are in units of the anchor's side, here the stride."""
    return {
        "cls_logits": head_output["cls_logits"].detach(),
        "centerness_logits": head_output["bbox_ctrness"].detach().squeeze(-1),
        "ltrb": head_output["bbox_regression"].detach().float() * strides[:, None],
    }


def strides_of_points(output: dict[str, list[Tensor]], strides: tuple[int, ...]) -> Tensor:
    """The stride of each point, float32 [N]."""
    counts = torch.tensor([len(points) for points in output["points"]])
    return torch.repeat_interleave(torch.tensor(strides, dtype=torch.float32), counts)


class KeepOutput:
    """Forward hook that keeps the last output of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.last: Any = None
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Called by torch after each forward pass."""
        self.last = output


def _our_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise KeyError(f"torchvision's {name} has no counterpart: extend NAMES")
