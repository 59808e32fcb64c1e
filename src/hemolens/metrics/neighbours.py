"""How well frozen features tell classes apart, without training anything: k nearest neighbours by cosine similarity.

Wu et al. 2018 (arXiv:1805.01978) judge pretrained features so; here each neighbour has one vote, as with scikit-learn's
``KNeighborsClassifier(metric="cosine")``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from hemolens.errors import UserError

_SIMILARITIES = 2**24  # held at a time: 128 MiB; bounds memory, changes no result
_MOST_CLASSES = 2**24  # float32 holds whole numbers below it


def knn_predict(train_features: Tensor, train_labels: Tensor, test_features: Tensor, k: int = 10) -> Tensor:
    """The class that most of the k most similar training samples have.

    Similarity is the cosine, in float64. Of classes with equally many votes, that of the nearest of their neighbours
    wins. Which of equally similar samples count as near is left open.

    Args:
        train_features: float [N, F].
        train_labels: int64 [N].
        test_features: float [M, F].
        k: neighbours; all N where there are fewer.

    Returns:
        int64 [M].

    Raises:
        UserError: shapes that do not fit, no training sample, k below 1, or features that are not finite.
    """
    if k < 1:
        raise UserError(f"k={k}: at least one neighbour is needed")
    if train_labels.ndim != 1 or train_features.ndim != 2 or len(train_labels) != len(train_features):
        shapes = f"{list(train_features.shape)} with labels {list(train_labels.shape)}"
        raise UserError(f"training features {shapes}: give [N, F] and [N]")
    if test_features.ndim != 2 or test_features.shape[1] != train_features.shape[1]:
        raise UserError(f"test features {list(test_features.shape)}: give [M, {train_features.shape[1]}]")
    if not len(train_features):
        raise UserError("no training sample: neighbours are sought among at least one")
    return _vote(_directions(train_features), train_labels, _directions(test_features), k, leave_one_out=False)


def _directions(features: Tensor) -> Tensor:
    """Features brought to length 1, float64; one of length 0 stays so, and is like nothing."""
    if not features.isfinite().all():
        raise UserError("features that are not finite: look at the network, or at the images")
    return normalize(features.double(), dim=1)


def _vote(train: Tensor, labels: Tensor, test: Tensor, k: int, *, leave_one_out: bool) -> Tensor:
    """:func:`knn_predict` of directions; when leaving one out, test sample i is training sample i, and does not vote
    for itself."""
    found = []
    rows, k = max(1, _SIMILARITIES // len(train)), min(k, len(train) - leave_one_out)
    for start in range(0, len(test), rows):
        similar = test[start : start + rows] @ train.T
        if leave_one_out:
            similar.diagonal(offset=start).fill_(-torch.inf)
        near = labels[similar.topk(k, dim=1).indices]  # [rows, k], the nearest first
        votes = (near[:, :, None] == near[:, None, :]).sum(2)  # of the class of each neighbour
        found.append(near.gather(1, votes.argmax(1, keepdim=True))[:, 0])  # argmax: the first, and so the nearest
    return torch.cat(found) if found else labels.new_zeros(0)


class NearestNeighbours(Metric):
    """Balanced accuracy of predicting each sample's class from its k nearest among all others, right under DDP.

    Leave-one-out over everything that :meth:`update` saw, by :func:`knn_predict`'s rules. Balanced accuracy is the mean
    of the classes' recalls over the classes that occur; a class of one sample has recall 0. It is nan where fewer than
    two classes have at least two samples each.

    Args:
        k: neighbours; all others where there are fewer.

    Raises:
        UserError: k below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    # 1-D float32 lists are what torchmetrics can gather also from a process that saw no image.
    features: list[Tensor]
    labels: list[Tensor]
    width: Tensor

    def __init__(self, k: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise UserError(f"k={k}: at least one neighbour is needed")
        self.k = k
        for name in ("features", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("width", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features float [N, F] with labels int64 [N]; a sample with the label -1 is left out entirely.

        Raises:
            UserError: shapes that do not fit, another F than before, labels out of range, or, of samples with a label,
                features that are not finite.
        """
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise UserError(f"features {list(features.shape)} with labels {list(labels.shape)}: give [N, F] and [N]")
        if self.width and features.shape[1] != self.width:
            raise UserError(f"features of {features.shape[1]} numbers after {int(self.width)}: give one network's")
        if len(labels) and not (labels.min() >= -1 and labels.max() < _MOST_CLASSES):
            raise UserError(f"labels from {int(labels.min())} to {int(labels.max())}: -1 is no class, others count up")
        known = labels >= 0
        chosen = features.detach()[known].float()
        if not chosen.isfinite().all():
            raise UserError("features that are not finite: look at the network, or at the images")
        self.width.fill_(features.shape[1])
        self.features.append(chosen.to(self.device).flatten())
        self.labels.append(labels[known].to(self.device, torch.float32))

    def compute(self) -> Tensor:
        """The balanced accuracy, 0 to 1, float64 []."""
        nothing = torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        if not len(self.labels):
            return nothing
        labels = dim_zero_cat(self.labels).long()
        _, place, counts = labels.unique(return_inverse=True, return_counts=True)
        if int((counts >= 2).sum()) < 2:
            return nothing
        found = _directions(dim_zero_cat(self.features).reshape(len(labels), -1))
        right = _vote(found, labels, found, self.k, leave_one_out=True) == labels
        recalls = torch.zeros(len(counts), dtype=torch.float64, device=labels.device)
        return (recalls.index_add_(0, place, right.double()) / counts).mean()
