"""FCOS R50-FPN, one training step: hemolens against torchvision."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fcos_pair import (
    KeepOutput,
    Mode,
    Variant,
    build_pair,
    cell_targets,
    compare_levels,
    made_up_image,
    our_levels,
    peer_levels,
    strides_of_points,
    variants,
    work_of,
)
from benchmarks.harness import Comparison, Options, Side
from hemolens.tasks.detection import detection_losses

OPTIMIZER = {"optimizer": "AdamW", "lr": 5e-4, "weight_decay": 0.01}
CENTER_RADIUS = 1.5
LOSS_TOLERANCE = {True: 1e-2, False: 5e-2}  # relative, by whether both sides compute in one precision


def comparisons(options: Options) -> Iterator[Comparison]:
    """Batch 1 at 512×512 with 60 boxes: forward, targets, losses, backward and optimizer step."""
    size, boxes = (256, 20) if options.quick else (512, 60)
    for variant in variants():
        net, peer = build_pair(size, variant.peer, center_sampling_radius=CENTER_RADIUS)
        resize = {"min_size": size, "max_size": size, "anchors": "centered"}
        yield Comparison(
            variant.name,
            Side(
                "hemolens fcos_r50_fpn",
                {**variant.ours.config(), **OPTIMIZER},
                our_step(net, variant.ours, size, boxes),
            ),
            Side(
                "torchvision fcos_resnet50_fpn",
                {**variant.peer.config(), **resize, **OPTIMIZER},
                peer_step(peer, variant.peer, size, boxes),
            ),
            checker(net.strides, variant),
            tolerance(variant),
            target=variant.target(shipped=2.5),
            work={**work_of(net, size), "boxes": boxes},
        )


def our_step(net: nn.Module, mode: Mode, size: int, boxes: int) -> Callable[[], Any]:
    """A step with the losses of the task."""
    net = net.to(memory_format=mode.memory_format).train()
    image = made_up_image(size).contiguous(memory_format=mode.memory_format)
    targets, image_sizes = [cell_targets(size, boxes)], torch.tensor([[size, size]])
    optimizer = adamw(net)

    def run() -> tuple[Any, dict[str, float]]:
        optimizer.zero_grad()
        with mode.autocast():
            output = net(image)
            losses = detection_losses(
                output,
                targets,
                image_sizes,
                strides=net.strides,
                regress_ranges=net.regress_ranges,
                center_radius=CENTER_RADIUS,
            )
        losses["loss"].backward()
        optimizer.step()
        shared = {"class": losses["loss_cls"], "centerness": losses["loss_centerness"]}
        return output, {name: loss.item() for name, loss in shared.items()}

    return run


def peer_step(peer: nn.Module, mode: Mode, size: int, boxes: int) -> Callable[[], Any]:
    """A step as torchvision documents it."""
    peer.train()
    images, targets = [made_up_image(size)[0]], [cell_targets(size, boxes)]
    optimizer = adamw(peer)
    raw = KeepOutput(peer.get_submodule("head"))

    def run() -> tuple[Any, dict[str, float]]:
        optimizer.zero_grad()
        with mode.autocast():
            losses: dict[str, Tensor] = peer(images, targets)
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
        shared = {"class": losses["classification"], "centerness": losses["bbox_ctrness"]}
        return raw.last, {name: loss.item() for name, loss in shared.items()}

    return run


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of both sides."""
    return torch.optim.AdamW(net.parameters(), lr=OPTIMIZER["lr"], weight_decay=OPTIMIZER["weight_decay"])


def raw_tolerance(variant: Variant) -> float:
    """How far raw outputs may be apart, as a share of their standard deviation.

    Between bfloat16 and float32 any distance: an untrained ResNet-50 with the statistics of one image amplifies
    rounding until its raw outputs correlate at about 0.8 with its own float32 ones. The like-for-like
    variant compares them.
    """
    return variant.tolerance if variant.ours.bf16 == variant.peer.bf16 else math.inf


def loss_tolerance(variant: Variant) -> float:
    """How far the losses may be apart, relative."""
    return LOSS_TOLERANCE[variant.ours.bf16 == variant.peer.bf16]


def tolerance(variant: Variant) -> str:
    """The check in words."""
    allowed = raw_tolerance(variant)
    raw = "not compared" if math.isinf(allowed) else f"within {allowed} of their standard deviation (rms)"
    return (
        f"at the first step raw outputs {raw}, class and centerness losses within "
        f"{loss_tolerance(variant):.0%}; the box loss differs by definition (ours is weighted by centerness)"
    )


def checker(strides: tuple[int, ...], variant: Variant) -> Callable[[Any, Any], dict[str, float]]:
    """Compare raw outputs and the losses that both define alike, at the common initial weights."""

    def check(ours: Any, peer: Any) -> dict[str, float]:
        (output, mine), (head_output, theirs) = ours, peer
        expected = peer_levels(head_output, strides_of_points(output, strides))
        found = compare_levels(our_levels(output), expected, raw_tolerance(variant))
        for name, loss in theirs.items():
            difference = abs(mine[name] - loss) / abs(loss)
            assert difference <= loss_tolerance(variant), f"{name} loss: {mine[name]} and {loss}"
            found[f"{name} loss"] = float(f"{difference:.2g}")
        return found

    return check
