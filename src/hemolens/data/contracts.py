"""The batches that every data module yields and every task takes. Start reading here.

Coordinates are pixels with the origin at the top left corner of the top left pixel, x to the right, y down;
a box is (x0, y0, x1, y1) with x1 and y1 exclusive, so that its area is (x1 - x0) * (y1 - y0).
Images are [C, H, W] float32. An 8- or 16-bit file is scaled to [0, 1] by its type
(``hemolens.io.images.to_float``); nothing else is done to the values unless the data module's configuration
says so.
"""

from typing import TypedDict

from torch import Tensor


class DetectionTarget(TypedDict):
    """The annotated cells of one image; M may be 0."""

    boxes: Tensor
    """float32 [M, 4], xyxy in pixels of the valid image area, each with positive width and height."""
    labels: Tensor
    """int64 [M], 0..C-1 in the order of the data module's ``class_names``; there is no background class."""


class DetectionSample(TypedDict):
    """One item of a detection data set."""

    image: Tensor
    """float32 [C, H, W]."""
    target: DetectionTarget
    image_id: str
    """Name of the image without folder and suffix; unique in its data set."""


class DetectionBatch(TypedDict):
    """What a detection data loader yields: B samples padded to one size."""

    images: Tensor
    """float32 [B, C, H, W]; H and W are the largest of the batch rounded up to the size divisor (32), the
    added rows and columns are zeros at the bottom and right."""
    image_sizes: Tensor
    """int64 [B, 2], (height, width) of the valid area of each image; boxes and detections lie inside it."""
    targets: list[DetectionTarget]
    """B targets."""
    image_ids: list[str]
    """B names, used in error messages, panels and prediction tables."""


class ClassificationSample(TypedDict):
    """One item of a classification data set: a picture of one cell."""

    image: Tensor
    """float32 [C, S, S], the square crop that the data module cuts and scales."""
    label: int
    """0..K-1 in the order of the data module's ``class_names``."""
    image_id: str
    """Name of the picture, unique in its data set, e.g. ``monocyte/MO_12267``."""


class ClassificationBatch(TypedDict):
    """What a classification data loader yields."""

    images: Tensor
    """float32 [B, C, S, S]."""
    labels: Tensor
    """int64 [B]."""
    image_ids: list[str]
    """B names, used in error messages and panels."""


class ViewsSample(TypedDict):
    """One item of a training set without labels: two augmented crops of one image; see ``data.two_crops``."""

    views: Tensor
    """float32 [2, C, S, S], the crops as network input."""
    targets: Tensor
    """float32 [2, C, S, S], the same crops, mirrored and turned as the views are and in their scale, before anything
    that changes values: colours, blur, noise."""
    label: int
    """0..K-1 in the order of the data module's ``class_names``, -1 where it is not known; nothing is trained on it."""
    image_id: str
    """Name of the image."""


class ViewsBatch(TypedDict):
    """What a training loader without labels yields; its validation and test yield a ``ClassificationBatch`` of whole
    images, with the label -1 where the class is not known."""

    views: Tensor
    """float32 [B, 2, C, S, S]."""
    targets: Tensor
    """float32 [B, 2, C, S, S]."""
    labels: Tensor
    """int64 [B], -1 where the class is not known."""
    image_ids: list[str]
    """B names, used in error messages."""


class PatchSample(TypedDict):
    """One item of a segmentation training set: a patch of a phase image."""

    image: Tensor
    """float32 [1, P, P] in [-1, 1], see ``data.segmentation.PhaseSpec``."""
    classes: Tensor
    """int64 [P, P], 0 background, 1..K-1 in the order of the data module's ``class_names``."""
    image_id: str
    """Name of the image that it was cut from."""
    origin: str
    """``acquired`` (or simulated in place of that), or ``synthetic`` (made by a network)."""


class PatchBatch(TypedDict):
    """What a segmentation training loader yields."""

    images: Tensor
    """float32 [B, 1, P, P]."""
    classes: Tensor
    """int64 [B, P, P]."""
    image_ids: list[str]
    """B names, used in error messages."""
    origins: list[str]
    """B origins."""


class FieldSample(TypedDict):
    """One item of a segmentation validation or test set: a whole phase image."""

    image: Tensor
    """float32 [1, H, W] in [-1, 1]."""
    classes: Tensor
    """int64 [H, W]."""
    instances: Tensor
    """int32 [H, W], which cell each pixel belongs to, 0 background."""
    image_id: str
    """Name of the image, unique in its data set."""


class FieldBatch(TypedDict):
    """What a segmentation validation or test loader yields."""

    images: Tensor
    """float32 [B, 1, H, W]; fields come one by one, since they may differ in size."""
    classes: Tensor
    """int64 [B, H, W]."""
    instances: Tensor
    """int32 [B, H, W]."""
    image_ids: list[str]
    """B names, used in error messages, panels and tables."""
