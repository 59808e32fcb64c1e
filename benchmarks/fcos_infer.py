"""FCOS, one image to its detections: hemolens against torchvision. R50-FPN, and R18-FPN on a field of paper A."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.fcos_pair import (
    CLASS_NAMES,
    KeepOutput,
    Mode,
    Variant,
    build_pair,
    compare_levels,
    made_up_image,
    our_levels,
    peer_levels,
    strides_of_points,
    variants,
    work_of,
)
from benchmarks.harness import Comparison, Options, Side
from hemolens.inference.detection import SIZE_DIVISOR
from hemolens.tasks.detection import DetectionTask

DECODING = {"score_threshold": 0.2, "pre_nms_topk": 1000, "nms_iou": 0.6, "max_detections": 300}
AGREEING = 0.95  # share of detections that must agree in float32: near ties fall either way, how many differs by CPU


def comparisons(options: Options) -> Iterator[Comparison]:
    """Batch 1, forward pass, decoding and non-maximum suppression: R50 at 512×512, R18 on a field of 1444×1444."""
    cases = [
        ("", "resnet50", 128 if options.quick else 512),
        ("field_r18_", "resnet18", 140 if options.quick else 1444),
    ]
    for (prefix, backbone, size), variant in itertools.product(cases, variants()):
        net, peer = build_pair(
            size,
            variant.peer,
            backbone=backbone,
            score_thresh=DECODING["score_threshold"],
            nms_thresh=DECODING["nms_iou"],
            detections_per_img=DECODING["max_detections"],
            topk_candidates=DECODING["pre_nms_topk"],
        )
        layout = variant.ours.channels_last
        task = DetectionTask(net=net, class_names=CLASS_NAMES, score="sqrt", channels_last=layout, **DECODING)
        task.eval().setup("predict")
        resize = {"min_size": size, "max_size": size, "anchors": "centered"}
        yield Comparison(
            prefix + variant.name,
            Side(
                f"hemolens fcos {backbone} fpn",
                {**variant.ours.config(), "score": "sqrt", **DECODING},
                our_run(task, variant.ours, size),
            ),
            Side(
                f"torchvision fcos {backbone} fpn",
                {**variant.peer.config(), **resize, **DECODING},
                peer_run(peer.eval(), variant.peer, size),
            ),
            checker(task.net.strides, variant),
            tolerance(variant),
            target=None if prefix else variant.target(shipped=3.0),
            work=work_of(net, size),
        )


def our_run(task: DetectionTask, mode: Mode, size: int) -> Callable[[], Any]:
    """Detect as the task does, keeping the raw output for the check."""
    image, image_sizes = made_up_image(size), torch.tensor([[size, size]])
    margin = -size % SIZE_DIVISOR
    raw = KeepOutput(task.net)

    @torch.inference_mode()
    def run() -> tuple[Any, dict[str, Tensor]]:
        with mode.autocast():
            detections = task.detect(pad(image, (0, margin, 0, margin)), image_sizes)
        return raw.last, detections[0]

    return run


def peer_run(peer: nn.Module, mode: Mode, size: int) -> Callable[[], Any]:
    """Detect as torchvision documents it."""
    image = made_up_image(size)[0]
    raw = KeepOutput(peer.get_submodule("head"))

    @torch.inference_mode()
    def run() -> tuple[Any, dict[str, Tensor]]:
        with mode.autocast():
            detections = peer([image])
        return raw.last, detections[0]

    return run


def tolerance(variant: Variant) -> str:
    """The check in words."""
    raw = f"raw outputs within {variant.tolerance} of their standard deviation (rms), same number of points"
    if variant.any_bf16:
        return raw + "; detections are not compared in bfloat16"
    return raw + f", {AGREEING:.0%} of detections the same to 0.1 px and 1e-3"


def checker(strides: tuple[int, ...], variant: Variant) -> Callable[[Any, Any], dict[str, float]]:
    """Compare raw outputs, and in float32 the detections too."""

    def check(ours: Any, peer: Any) -> dict[str, float]:
        (output, mine), (head_output, theirs) = ours, peer
        expected = peer_levels(head_output, strides_of_points(output, strides))
        found = compare_levels(our_levels(output), expected, variant.tolerance)
        found |= {"our detections": len(mine["boxes"]), "peer's detections": len(theirs["boxes"])}
        if not variant.any_bf16:
            found["detections that agree"] = share = round(agreement(mine, theirs), 4)
            assert share >= AGREEING, f"only {share:.1%} of the detections agree"
        return found

    return check


def agreement(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Share of the longer list that has a partner of the same class, box and score in the other one."""
    same = (
        (torch.cdist(mine["boxes"], theirs["boxes"], p=torch.inf) < 0.1)
        & (mine["labels"][:, None] == theirs["labels"])
        & ((mine["scores"][:, None] - theirs["scores"]).abs() < 1e-3)
    )
    return int(same.any(dim=1).sum()) / max(1, *same.shape)
