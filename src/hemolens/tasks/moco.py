"""Pretraining without labels: momentum contrast of the encoder, reconstruction by the decoder (paper B, section 3)."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from hemolens.data.contracts import ClassificationBatch, ViewsBatch
from hemolens.diffusion.schedule import generators
from hemolens.errors import UserError
from hemolens.losses.contrastive import info_nce_logits, info_nce_of_logits
from hemolens.metrics.features import FeatureSpread, feature_spread
from hemolens.nets.moco import gathered, process, share_of
from hemolens.tasks.base import Task

SAME = 1e-2  # spread of queries that say the same of every image: their mean cosine is above 0.9999


class MoCoReconstructionTask(Task):
    """Pretrain an encoder and a decoder on two crops c and c' of each image.

    The query encoder sees c, the momentum encoder c', both augmented. The loss (paper B, Eq. 12) is InfoNCE (Eq. 10)
    plus the reconstruction error (Eq. 11): the mean of the squared errors of c and c' as the decoder makes them of the
    two encoders' maps, against the crops before the change of their colours. No gradient goes into the momentum
    encoder; the decoder learns from both.

    Under several processes the momentum encoder sees its crops in an order drawn over all of them, so that its batch
    statistics do not tell which query belongs to which key (shuffling BN, He et al. 2020, section 3.3), and the keys of
    all processes enter the queue.

    Args:
        net: see :class:`hemolens.nets.moco.MoCo`.
        class_names, optimizer, scheduler, channels_last: see :class:`hemolens.tasks.base.Task`; the momentum networks,
            which need no gradient, are not optimised.
        temperature: of InfoNCE.
        contrastive_weight, reconstruction_weight: of the two losses.
        metric: a score of features [N, F] of images with labels [N] (-1: not known), logged as ``val/knn`` and
            ``test/knn``, e.g. :class:`hemolens.metrics.neighbours.NearestNeighbours`; None: none.
        draw_seed: of the order over the processes.
        collapse_steps: training ends after so many steps in a row in which all queries of a batch were the same; 0:
            never.

    Raises:
        UserError: a setting out of range.
    """

    family = "ssl"
    metrics: ClassVar[dict[str, str]] = {
        **{f"train/{name}": "min" for name in ("loss", "contrastive", "reconstruction")},
        **{"train/contrastive_accuracy": "max", "train/feature_sd": "last"},
        **{"val/reconstruction": "min", "val/feature_sd": "last", "val/knn": "max"},
    }
    steps: Tensor
    trouble: Tensor

    def __init__(
        self,
        *,
        net: nn.Module,
        class_names: Iterable[str],
        optimizer: Callable[[Any], Optimizer] | None = None,
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        temperature: float = 0.2,
        contrastive_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        metric: Metric | None = None,
        draw_seed: int = 0,
        collapse_steps: int = 200,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(net, class_names, optimizer, scheduler, channels_last)
        if temperature <= 0:
            raise UserError(f"model.temperature={temperature}: must be positive, e.g. 0.2")
        for name, value in (
            *(("contrastive_weight", contrastive_weight), ("reconstruction_weight", reconstruction_weight)),
            *(("draw_seed", draw_seed), ("collapse_steps", collapse_steps)),
        ):
            if value < 0:
                raise UserError(f"model.{name}={value}: must not be negative")
        self.temperature, self.draw_seed, self.collapse_steps = temperature, draw_seed, collapse_steps
        self.contrastive_weight, self.reconstruction_weight = contrastive_weight, reconstruction_weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # batches trained on
        self.register_buffer("trouble", torch.zeros((), dtype=torch.int64))  # of them the last ones that were the same
        self.val_scores = self._scores(metric)
        self.test_scores = self._scores(metric)

    def _scores(self, metric: Metric | None) -> nn.ModuleDict:
        scores = {"reconstruction": MeanMetric(), "feature_sd": FeatureSpread(self.net.num_features)}
        return nn.ModuleDict(scores | ({} if metric is None else {"knn": metric.clone()}))

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions float32 [B, C, S, S] of images [B, C, S, S]."""
        images = self.net(self.in_memory_format(images))
        return images

    def losses(self, views: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """One step, but for the gradient: move the momentum networks, encode, and put the keys into the queue.

        Args:
            views, targets: float32 [B, 2, C, S, S], see :class:`hemolens.data.contracts.ViewsBatch`.

        Returns:
            ``loss``, its parts ``contrastive`` and ``reconstruction``, the share of queries whose own key is the most
            similar, ``contrastive_accuracy``, and the spread of the queries, ``feature_sd``: scalars; the last two
            without gradient.
        """
        self.net.update_momentum()
        queries, maps = self.net.encode(self.in_memory_format(views[:, 0]))
        positives, keys, key_maps, key_targets = self._keys(views[:, 1], targets[:, 1])
        # a copy of the queue: the keys of this step are written before the backward pass, which needs the old ones
        logits = info_nce_logits(queries, positives, self.net.queue.keys.clone(), self.temperature)
        contrastive = info_nce_of_logits(logits)
        # two passes: in one, batch statistics would carry the error of c' into the query encoder
        errors = [
            mse_loss(self.net.reconstruct(maps), targets[:, 0]),
            mse_loss(self.net.reconstruct(key_maps), key_targets),
        ]
        reconstruction = (errors[0] + errors[1]) / 2
        self.net.queue.enqueue(keys)
        return {
            "loss": self.contrastive_weight * contrastive + self.reconstruction_weight * reconstruction,
            "contrastive": contrastive,
            "reconstruction": reconstruction,
            "contrastive_accuracy": (logits.detach().argmax(1) == 0).float().mean(),
            "feature_sd": feature_spread(queries),
        }

    def _keys(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """The key of each image [B, D], those of all processes [W B, D], and the maps and targets of the B images that
        were encoded here, of whatever process they are."""
        rank, world = process()
        if world == 1:  # the order within a batch changes nothing
            keys, maps = self.net.encode_keys(self.in_memory_format(images))
            return keys, keys, maps, targets
        rng = generators(self.draw_seed, [int(self.steps)])[0]  # the same on every process
        order = torch.randperm(world * len(images), generator=rng).to(images.device)
        mine = share_of(order, rank, world)
        images, targets = gathered(images)[mine], gathered(targets)[mine]
        shuffled, maps = self.net.encode_keys(self.in_memory_format(images))
        keys = gathered(shuffled)[order.argsort()]
        return share_of(keys, rank, world), keys, maps, targets

    def training_step(self, batch: ViewsBatch, batch_idx: int) -> Tensor:
        """Loss of a batch; a loss that is not finite, or a collapse, ends the run."""
        parts = self.losses(batch["views"], batch["targets"])
        size = len(batch["image_ids"])
        judged = {name: parts[name] for name in ("contrastive", "reconstruction")}
        self.refuse_not_finite(judged, batch_idx, batch["image_ids"])
        if size > 1:
            self._refuse_collapse(parts["feature_sd"])
        self.steps += 1
        self.log_step(parts, parts["loss"], size)
        return parts["loss"]

    def _refuse_collapse(self, spread: Tensor) -> None:
        if not self.collapse_steps:
            return
        same = bool(self.trainer.strategy.reduce(spread, reduce_op="mean") < SAME)
        self.trouble.copy_((self.trouble + 1) * same)
        if int(self.trouble) < self.collapse_steps:
            return
        kept = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or "none yet"
        raise UserError(
            f"for {self.collapse_steps} steps all queries of a batch were the same (train/feature_sd below {SAME}): "
            "the encoder has collapsed. Lower optimizer.lr, or bring net.momentum nearer to 1. Best checkpoint so "
            f"far: {kept}",
            exit_code=1,
        )

    def _evaluate(self, batch: ClassificationBatch, scores: Any) -> dict[str, Tensor]:
        images = batch["images"]
        maps = self.net.maps(self.in_memory_format(images))
        features, made = self.net.pooled(maps), self.net.reconstruct(maps)
        scores["reconstruction"].update(mse_loss(made, images), weight=len(images))
        scores["feature_sd"].update(features)
        if "knn" in scores:
            scores["knn"].update(features, batch["labels"])
        return {"reconstructions": made}

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the scores; returns ``reconstructions`` float32 [B, C, S, S]."""
        return self._evaluate(batch, self.val_scores)

    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> dict[str, Tensor]:
        """Update the scores; returns ``reconstructions`` float32 [B, C, S, S]."""
        return self._evaluate(batch, self.test_scores)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/reconstruction`` (mean squared error), ``val/feature_sd`` (0: collapse), and ``val/knn``."""
        for name, value in _computed(self.val_scores).items():
            self.log(f"val/{name}", value, prog_bar=name == "knn")

    def on_test_epoch_end(self) -> None:
        """Log the same of the test; ``test_results`` keeps it."""
        self.test_results = _computed(self.test_scores)
        self.log_dict({f"test/{name}": value for name, value in self.test_results.items()})


def _computed(scores: Any) -> dict[str, float]:
    """The scores of an epoch, which are forgotten."""
    found = {name: float(score.compute()) for name, score in scores.items()}
    for score in scores.values():
        score.reset()
    return found
