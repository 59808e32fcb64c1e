"""Target assignment and losses of a crowded full-size field: share of the training step, and peak memory."""

import math
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fcos_pair import CHANNELS, CLASSES, Mode, build_net, cell_targets, count
from benchmarks.harness import Comparison, Options, Side
from hemolens.nets.fcos.targets import points_for
from hemolens.tasks.detection import detection_losses
from hemolens.tasks.precision import cpu_has_fast_bf16

NET = "fcos_r18_pafpn"  # the lightest step of the three networks, so the strictest share
MULTIPLE = 32  # px; batches are padded to it
TARGET = 20.0  # the step takes at least this many times the losses: 5 %
MEMORY_BAR_MB = 2000
TOLERANCE = 1e-5


def comparisons(options: Options) -> Iterator[Comparison]:
    """300 boxes in a field of 1444×1444, batch 1."""
    size, boxes = (140, 10) if options.quick else (1444, 300)
    mode = Mode(bf16=cpu_has_fast_bf16(), channels_last=True)
    torch.manual_seed(0)
    net = build_net(NET).to(memory_format=mode.memory_format).train()
    memory = peak_memory_mb(net, size, boxes)
    yield Comparison(
        "share_of_step",
        Side(
            "targets and losses, forward and backward",
            {"dtype": "float32"},
            losses_alone(net, mode, size, boxes),
        ),
        Side(
            "whole training step",
            {"net": NET, **mode.config(), "optimizer": "AdamW"},
            step(net, mode, size, boxes),
        ),
        check,
        f"loss at the first step within {TOLERANCE} relative",
        target=TARGET,
        most_pairs=3,
        work={
            "image": f"1×{CHANNELS}×{size}×{size}, padded to a multiple of {MULTIPLE}",
            "boxes": boxes,
            "points": sum(len(level) for level in level_points(net, size)),
            "parameters": count(net),
            "peak memory of targets and losses": memory_words(memory),
        },
    )


def memory_words(memory: int | None) -> str:
    """The memory beside what is allowed."""
    if memory is None:
        return "not measured: this system has no /proc"
    return f"{memory} MB, {MEMORY_BAR_MB} MB allowed: {'met' if memory <= MEMORY_BAR_MB else 'missed'}"


def check(ours: float, peer: float) -> dict[str, float]:
    """Both sides see the network before its first step, so their loss is the same."""
    difference = abs(ours - peer) / abs(peer)
    assert difference <= TOLERANCE, f"loss is {ours} alone and {peer} in the step"
    return {"loss": difference}


def losses_alone(net: nn.Module, mode: Mode, size: int, boxes: int) -> Callable[[], float]:
    """Targets and losses on a stored output of the network, with gradients to that output."""
    with torch.no_grad(), mode.autocast():
        output = net(padded_image(size, mode))
    leaves = {key: [level.detach() for level in levels] for key, levels in output.items()}
    loss_of = loss_function(net, size, boxes)

    def run() -> float:
        for key in ("cls_logits", "ltrb", "centerness_logits"):
            leaves[key] = [level.detach().requires_grad_() for level in leaves[key]]
        loss = loss_of(leaves)
        loss.backward()
        return loss.item()

    return run


def step(net: nn.Module, mode: Mode, size: int, boxes: int) -> Callable[[], float]:
    """Forward, targets, losses, backward, optimizer."""
    image, loss_of = padded_image(size, mode), loss_function(net, size, boxes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4)

    def run() -> float:
        optimizer.zero_grad()
        with mode.autocast():
            output = net(image)
        loss = loss_of(output)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def loss_function(net: Any, size: int, boxes: int) -> Callable[[dict[str, list[Tensor]]], Tensor]:
    """The task's loss for made-up cells."""
    targets, image_sizes = [cell_targets(size, boxes)], torch.tensor([[size, size]])

    def loss_of(output: dict[str, list[Tensor]]) -> Tensor:
        losses = detection_losses(output, targets, image_sizes, strides=net.strides, regress_ranges=net.regress_ranges)
        return losses["loss"]

    return loss_of


def padded(size: int) -> int:
    """Side of the padded image."""
    return math.ceil(size / MULTIPLE) * MULTIPLE


def padded_image(size: int, mode: Mode) -> Tensor:
    """A made-up field with its zero padding."""
    image = torch.zeros(1, CHANNELS, padded(size), padded(size))
    image[..., :size, :size] = torch.rand(1, CHANNELS, size, size, generator=torch.Generator().manual_seed(2))
    return image.contiguous(memory_format=mode.memory_format)


def level_points(net: Any, size: int) -> list[Tensor]:
    """Points of the padded image, one [N_l, 2] a level."""
    sizes = [(math.ceil(padded(size) / stride),) * 2 for stride in net.strides]
    return points_for(sizes, net.strides, "cpu")


def peak_memory_mb(net: nn.Module, size: int, boxes: int) -> int | None:
    """What targets and losses add to the memory of a fresh process; None where /proc does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    shapes = [len(level) for level in level_points(net, size)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_memory, shapes, size, boxes, torch.get_num_threads()).result()


def _measure_memory(points: list[int], size: int, boxes: int, threads: int) -> int:
    torch.set_num_threads(threads)
    net = build_net(NET)
    torch.manual_seed(0)
    output = {
        "cls_logits": [torch.randn(1, n, CLASSES).requires_grad_() for n in points],
        "ltrb": [(torch.rand(1, n, 4) * 40).requires_grad_() for n in points],
        "centerness_logits": [torch.randn(1, n).requires_grad_() for n in points],
        "points": level_points(net, size),
    }
    loss_of = loss_function(net, size, boxes)
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present
    loss_of(output).backward()
    return round(_status_mb("VmHWM") - before)


def _status_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else math.nan
