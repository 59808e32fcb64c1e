"""What a detector sees in single cells: features of its class tower, for embeddings such as paper A's Fig. 3."""

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from hemolens.analysis.figures import displayable
from hemolens.errors import UserError
from hemolens.inference.detection import TILE_OVERLAP_PX, TILE_PX, padded
from hemolens.inference.load import DetectionPredictor
from hemolens.inference.outputs import DetectedImage
from hemolens.io.atomic import atomic_path
from hemolens.postprocess.tiles import tile_grid

FEATURES_FILE = "features.npz"
CROP_PX = 72  # 11.7 um at paper A's sampling: a red cell with its surroundings


@torch.inference_mode()
def class_features(
    predictor: DetectionPredictor,
    array: NDArray[Any],
    boxes: ArrayLike,
    *,
    tile_px: int = TILE_PX,
    tile_overlap_px: int = TILE_OVERLAP_PX,
) -> NDArray[np.float32]:
    """Features of the class tower at the centres of boxes, on the level that the box's size belongs to.

    The tower's output is what every class's own classifier reads, so cells of all classes lie in one space.

    Args:
        predictor: from ``hemolens.load``.
        array: the image, as for ``predictor.predict``.
        boxes: [N, 4] xyxy in pixels of ``array``.
        tile_px, tile_overlap_px: see ``inference.detection.predict_detections``.

    Returns:
        float32 [N, channels of the tower], interpolated between the four cells of the map around each centre.

    Raises:
        UserError: the array is no image, or boxes are not [N, 4].
    """
    task, net = predictor.task, predictor.task.net
    corners = np.asarray(boxes, np.float32)
    if corners.size and (corners.ndim != 2 or corners.shape[1] != 4):
        raise UserError(f"boxes have shape {list(corners.shape)}: give [N, 4], xyxy in pixels")
    image, scale_xy = predictor.input_spec.apply(array)
    scaled = torch.from_numpy(corners.reshape(-1, 4)) * torch.tensor([*scale_xy, *scale_xy])
    centers, reach = (scaled[:, :2] + scaled[:, 2:]) / 2, (scaled[:, 2:] - scaled[:, :2]).amax(1) / 2
    highest = torch.tensor([high for _, high in net.regress_ranges])
    levels = (reach[:, None] > highest).sum(1).clamp(max=len(highest) - 1)
    tiles = tile_grid(image.shape[1], image.shape[2], tile_px, tile_overlap_px)
    edges = torch.tensor([[tile.x1, tile.y1, tile.x2, tile.y2] for tile in tiles])
    inside = torch.minimum(centers[:, None] - edges[:, :2], edges[:, 2:] - centers[:, None]).amin(2)
    tile_of = inside.argmax(1)  # the tile in which the centre is farthest from an edge
    found = torch.zeros(len(scaled), net.head.cls_logits.in_channels)
    for number in tile_of.unique().tolist():
        tile = tiles[number]
        part = padded(image[:, tile.y1 : tile.y2, tile.x1 : tile.x2])
        with predictor.in_precision():
            maps = net.neck(net.backbone(part[None].to(task.device)))
        for level in levels[tile_of == number].unique().tolist():
            own = (tile_of == number) & (levels == level)
            with predictor.in_precision():
                tower = net.head.cls_tower(maps[level]).float().cpu()
            at = centers[own] - torch.tensor([tile.x1, tile.y1])
            found[own] = _sample(tower, at / net.strides[level])
    return np.asarray(found.numpy())


def has_class_features(net: Any) -> bool:
    """Whether a detector is built as :func:`class_features` needs it: backbone, neck, and a head with a class tower."""
    parts = all(hasattr(net, name) for name in ("backbone", "neck", "head", "strides", "regress_ranges"))
    return parts and all(hasattr(net.head, name) for name in ("cls_tower", "cls_logits"))


def _sample(features: Tensor, at: Tensor) -> Tensor:
    """[N, C] of a map [1, C, h, w] at ``at`` [N, 2], (x, y) in cells of the map; cell i has its centre at i + 1/2."""
    height, width = features.shape[2:]
    grid = 2 * at / torch.tensor([width, height]) - 1
    sampled = grid_sample(features, grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T


def crop_cells(array: NDArray[Any], boxes: ArrayLike, side: int = CROP_PX) -> NDArray[np.uint8]:
    """Windows around the centres of boxes, uint8 [N, side, side], stretched as the whole image is for display.

    Outside of the image they are 0.
    """
    pixels = displayable(array)
    if pixels.ndim == 3:
        pixels = pixels.mean(2).round().astype(np.uint8)
    half = side // 2
    around = np.pad(pixels, half)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    x, y = np.floor((corners[:, :2] + corners[:, 2:]) / 2).astype(int).T
    x, y = np.clip(x, 0, pixels.shape[1] - 1), np.clip(y, 0, pixels.shape[0] - 1)
    crops = [around[top : top + side, left : left + side] for top, left in zip(y.tolist(), x.tolist(), strict=True)]
    return np.stack(crops) if crops else np.zeros((0, side, side), np.uint8)


@dataclass
class FeatureOutputs:
    """Writes ``features.npz``: features and pictures of cells of some classes, for ``hemolens report``.

    Arrays: ``image`` and ``class`` (text), ``cell`` int64 (as in ``cells.csv``), ``score`` float32,
    ``features`` float16 [N, channels], ``crops`` uint8 [N, 72, 72].

    Args:
        predictor: the detector.
        n_files: how many files there are; each gives an equal share of ``most``.
        classes: of these classes.
        most: cells in all, about; each file's are drawn by a fixed seed.
        tile_px, tile_overlap_px: see ``inference.detection.predict_detections``.
    """

    predictor: DetectionPredictor
    n_files: int
    classes: tuple[str, ...]
    most: int = 4000
    tile_px: int = TILE_PX
    tile_overlap_px: int = TILE_OVERLAP_PX
    _parts: list[dict[str, NDArray[Any]]] = field(default_factory=list, init=False)

    def add(self, folder: Path, stem: PurePosixPath, result: DetectedImage) -> None:
        """Features of one image's cells; see :class:`hemolens.inference.outputs.MoreOutputs`."""
        found = result.detections
        names = np.array(self.predictor.class_names)[found.labels]
        chosen = np.flatnonzero(np.isin(names, self.classes))
        share = math.ceil(self.most / max(self.n_files, 1))
        if len(chosen) > share:
            drawn = np.random.default_rng(len(self._parts)).choice(chosen, share, replace=False)
            chosen = np.sort(drawn)
        boxes = found.boxes[chosen]
        self._parts.append(
            {
                "image": np.full(len(chosen), found.file_name),
                "cell": chosen + 1,
                "class": names[chosen],
                "score": found.scores[chosen],
                "features": self._features(result.pixels, boxes),
                "crops": crop_cells(result.pixels, boxes),
            }
        )

    def _features(self, pixels: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.float16]:
        tiles = {"tile_px": self.tile_px, "tile_overlap_px": self.tile_overlap_px}
        return class_features(self.predictor, pixels, boxes, **tiles).astype(np.float16)

    def finish(self, folder: Path) -> None:
        """Write the file."""
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        with atomic_path(folder / FEATURES_FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **joined)  # type: ignore[arg-type]  # no key is named allow_pickle
