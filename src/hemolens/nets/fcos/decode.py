"""From FCOS's raw predictions to the detections of an image.

Shape suffixes: N_l cells of level l, C classes, K detections.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image


class Detections(TypedDict):
    """Detections of one image, best first."""

    boxes: Tensor  # float32 [K, 4] xyxy in pixels
    scores: Tensor  # float32 [K]
    labels: Tensor  # int64 [K], 0…C−1
    probabilities: Tensor  # float32 [K, C], sigmoid(cls) of every class in the cell that a box comes from


def boxes_from_ltrb(points: Tensor, ltrb: Tensor) -> Tensor:
    """Boxes [..., 4] xyxy from points [..., 2] (x, y) and distances [..., 4] to left, top, right, bottom."""
    return torch.cat([points - ltrb[..., :2], points + ltrb[..., 2:]], dim=-1)


@torch.no_grad()
def decode_detections(
    cls_logits: Sequence[Tensor],
    ltrb: Sequence[Tensor],
    centerness_logits: Sequence[Tensor],
    points: Sequence[Tensor],
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    pre_nms_topk: int,
    nms_iou: float,
    max_detections: int,
    score: Literal["product", "sqrt"] = "product",
) -> Detections:
    """Score, threshold, clip and thin out the predictions for one image.

    Each level keeps its (cell, class) pairs above ``score_threshold``, at most ``pre_nms_topk`` of them;
    boxes are clipped to the image and those left without width or height dropped; class-wise NMS; the best
    ``max_detections`` stay. Equal scores keep the order of level, cell and class.

    - ``product`` (MMDetection 2.24): threshold and top-k on sigmoid(cls) alone, then
      score = sigmoid(cls) · sigmoid(centerness), which may lie below the threshold.
    - ``sqrt`` (torchvision): score = sqrt(sigmoid(cls) · sigmoid(centerness)), threshold and top-k on it.

    Of a padded batch give only an image's own cells (:func:`hemolens.nets.fcos.targets.valid_points`).

    Args:
        cls_logits: [N_l, C] a level.
        ltrb: Distances in pixels, [N_l, 4] a level.
        centerness_logits: [N_l] a level.
        points: (x, y) in pixels, [N_l, 2] a level.
        image_size: (H, W) of the image, without padding.
        score_threshold: Scores must exceed it.
        pre_nms_topk: Most pairs a level.
        nms_iou: A box is suppressed if its IoU with a better one of its class exceeds this.
        max_detections: Most detections returned. ``len(boxes) == max_detections`` tells that the cap was
            reached and that more may have been cut: a caller should warn.
        score: Which of the two scores.

    Returns:
        Boxes, scores, labels and class probabilities, by falling score.

    Raises:
        ValueError: Unknown ``score``, or lists of different length.
    """
    if score not in ("product", "sqrt"):
        raise ValueError(f"score is {score!r}: choose 'product' (MMDetection) or 'sqrt' (torchvision)")
    levels = [
        _level_candidates(logits, distances, centerness, xy, score_threshold, pre_nms_topk, score)
        for logits, distances, centerness, xy in zip(cls_logits, ltrb, centerness_logits, points, strict=True)
    ]
    boxes, scores, labels, probabilities = (torch.cat(parts) for parts in zip(*levels, strict=True))
    height, width = (int(n) for n in image_size)
    boxes = clip_boxes_to_image(boxes, (height, width))
    solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, scores, labels, probabilities = boxes[solid], scores[solid], labels[solid], probabilities[solid]
    kept = batched_nms(boxes, scores, labels, nms_iou).sort().values
    best_first = scores[kept].argsort(descending=True, stable=True)  # torchvision leaves ties in any order
    kept = kept[best_first[:max_detections]]
    return Detections(boxes=boxes[kept], scores=scores[kept], labels=labels[kept], probabilities=probabilities[kept])


def _level_candidates(
    logits: Tensor,
    ltrb: Tensor,
    centerness_logits: Tensor,
    points: Tensor,
    threshold: float,
    topk: int,
    score: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [K, 4], scores [K], labels [K] and probabilities [K, C] of a level's best (cell, class) pairs."""
    centerness = centerness_logits.float().sigmoid()
    probabilities = logits.float().sigmoid()
    ranking = probabilities
    if score == "sqrt":
        ranking = (probabilities * centerness[:, None]).sqrt()
    pairs = (ranking > threshold).flatten().nonzero().squeeze(1)
    best = ranking.flatten()[pairs].argsort(descending=True, stable=True)[:topk]
    pairs = pairs[best]
    cells, labels = pairs // logits.shape[1], pairs % logits.shape[1]
    scores = ranking.flatten()[pairs]
    if score == "product":
        scores = scores * centerness[cells]
    return boxes_from_ltrb(points[cells].float(), ltrb[cells].float()), scores, labels, probabilities[cells]
