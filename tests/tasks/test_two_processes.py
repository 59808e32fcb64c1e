"""Every family on two processes: losses, gradients, weights and scores are those of one with the whole batch."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hemolens.data.classification import collate_classification
from hemolens.data.detection import collate_detection
from hemolens.data.segmentation import collate_segmentation
from hemolens.data.view_samples import collate_views
from hemolens.diffusion.schedule import DiffusionSchedule
from hemolens.metrics.neighbours import NearestNeighbours
from hemolens.nets.classifier import TimmClassifier
from hemolens.nets.ddgan.discriminator import DDGANDiscriminator
from hemolens.nets.ddgan.generator import mask_generator, phase_generator
from hemolens.nets.discriminator import PatchDiscriminator
from hemolens.nets.fcos.backbone import TimmBackbone
from hemolens.nets.fcos.head import FCOSHead
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.fcos.neck import PAFPN
from hemolens.nets.moco import MoCo
from hemolens.nets.resunet import ResUnet
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.gan_segmentation import GANSegmentationTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask

from .processes import Case, Data, in_two_processes, train

NAMES = ("background", "a", "b")
WIDTHS = (16, 16, 8, 8, 8)  # of decoders
VALIDATED = 3  # samples, so that one process has one more than the other


def sgd(lr: float) -> Any:
    return partial(torch.optim.SGD, lr=lr, momentum=0.9)


def fields(count: int, side: int, *, instances: bool = False) -> list[dict[str, Any]]:
    """Images with a square of one of two types; the types are not evenly dealt to two processes."""
    made = []
    for number in range(count):
        rng = torch.Generator().manual_seed(number)
        classes = torch.zeros(side, side, dtype=torch.int64)
        y, x = torch.randint(1, side - 9, (2,), generator=rng).tolist()
        classes[y : y + 8, x : x + 5 + number % 4] = 1 + (number == 3)
        image = (classes.float() * 0.6 - 0.7 + 0.05 * torch.randn(side, side, generator=rng))[None]
        field = {"image": image, "classes": classes, "image_id": f"p{number}", "origin": "acquired"}
        made.append(field | ({"instances": (classes > 0).int()} if instances else {}))
    return made


def segmentation_data(world: int, side: int) -> Data:
    return Data(fields(8, side), fields(VALIDATED, side, instances=True), collate_segmentation, world=world)


def detection(folder: str, world: int) -> dict[str, Any]:
    def pictures(count: int) -> list[dict[str, Any]]:
        made = []
        for number in range(count):
            rng = torch.Generator().manual_seed(number)
            cells = (0, 3, 1, 0, 0, 0, 0, 2)[number]  # also batches where a process has none
            corners = torch.rand(cells, 2, generator=rng) * 30
            boxes = torch.cat([corners, corners + 12 + 20 * torch.rand(cells, 2, generator=rng)], 1)
            target = {"boxes": boxes, "labels": torch.arange(cells) % 2}
            image = torch.rand(1, 64, 64, generator=rng)
            made.append({"image": image, "target": target, "image_id": f"f{number}"})
        return made

    torch.manual_seed(0)
    net = FCOS(
        num_classes=2,
        in_channels=1,
        backbone=partial(TimmBackbone, name="test_resnet", out_indices=(1, 2, 3, 4)),
        neck=partial(PAFPN, out_channels=16, start_level=1, num_outs=5),
        head=partial(FCOSHead, feat_channels=16, stacked_convs=1, norm_groups=4, initial_distance=1.5),
    )
    task = DetectionTask(net=net, class_names=NAMES[1:], optimizer=sgd(0.01), score_threshold=0.005)
    return train(task, Data(pictures(8), pictures(VALIDATED), collate_detection, world=world), folder, world)


def resunet() -> ResUnet:
    """One that finds cells from the start, if too many."""
    torch.manual_seed(0)
    net = ResUnet(3, 1, encoder="test_resnet", decoder_channels=WIDTHS)
    with torch.no_grad():
        assert net.head.bias is not None
        net.head.bias.copy_(torch.tensor([0.0, 1.5, 1.0]))
    return net


def segmentation(folder: str, world: int) -> dict[str, Any]:
    given: dict[str, Any] = {"class_weights": [0.5, 1.0, 3.0], "cells": {"min_area_px": 4}}
    task = SegmentationTask(net=resunet(), class_names=NAMES, optimizer=sgd(0.02), **given)
    return train(task, segmentation_data(world, 32), folder, world)


def classification(folder: str, world: int) -> dict[str, Any]:
    def cells(count: int) -> list[dict[str, Any]]:
        rng = torch.Generator().manual_seed(5)
        images = torch.rand(count, 1, 32, 32, generator=rng)
        return [
            {"image": image, "label": (0, 0, 1, 0, 2, 0, 0, 1)[number], "image_id": f"c{number}"}
            for number, image in enumerate(images)
        ]

    torch.manual_seed(0)
    options: dict[str, Any] = {"class_weights": "balanced", "label_smoothing": 0.1, "optimizer": sgd(0.01)}
    task = ClassificationTask(net=TimmClassifier(3, 1, "test_resnet"), class_names=NAMES, **options)
    return train(task, Data(cells(8), cells(VALIDATED), collate_classification, world=world), folder, world)


def gan(folder: str, world: int) -> dict[str, Any]:
    task = GANSegmentationTask(
        net=resunet(),
        discriminator=PatchDiscriminator(1, 3, width=8, stages=1),
        class_names=NAMES,
        optimizer=sgd(0.01),
        cells={"min_area_px": 4},
    )
    return train(task, segmentation_data(world, 32), folder, world)


def diffusion(made: str, folder: str, world: int) -> dict[str, Any]:
    """A penalty at each step, and images of both processes in the groups that the discriminator compares."""
    torch.manual_seed(0)
    tiny: dict[str, Any] = {"image_px": 16, "width": 8, "multipliers": [1, 2], "blocks": 1, "attention_px": [8]}
    tiny |= {"latent_dim": 4, "style_features": 8, "mapping_depth": 1, "num_classes": 3, "in_channels": 1}
    options: dict[str, Any] = {"schedule": DiffusionSchedule(), "class_names": NAMES, "optimizer": sgd(0.01)}
    judge = partial(DDGANDiscriminator, widths=[8, 16], time_features=8, group=2)
    task: Any
    if made == "mask":
        options |= {"l1_weight": 0.5, "cells": {"min_area_px": 4}, "chunks": 1}
        task = MaskDDGANTask(net=mask_generator(**tiny), discriminator=judge(channels=3), r1_every=1, **options)
    else:
        net = phase_generator(of_mask=True, **tiny)
        task = PhaseDDGANTask(net=net, discriminator=judge(channels=1), r1_every=1, condition="mask", **options)
    with torch.no_grad():  # branches that start as nearly nothing have nearly no gradient
        for parameter in task.net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return train(task, segmentation_data(world, 16), folder, world)


class Watched(MoCo):
    """Keeps what its momentum encoder sees."""

    seen: list[Tensor]

    def encode_keys(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.seen.append(images.clone())
        found: tuple[Tensor, list[Tensor]] = super().encode_keys(images)
        return found


def moco(folder: str, world: int) -> dict[str, Any]:
    def views(count: int) -> list[dict[str, Any]]:
        targets = torch.rand(count, 2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
        return [
            {"views": target.square(), "targets": target, "label": number % 2, "image_id": f"v{number}"}
            for number, target in enumerate(targets)
        ]

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"projection_features": 8, "hidden_features": 16, "queue_size": 14, "momentum": 0.9}
    net = Watched(2, 1, encoder="test_resnet", decoder_channels=WIDTHS, **sizes)
    net.seen = []
    score = NearestNeighbours(k=1)
    task = MoCoReconstructionTask(net=net, class_names=NAMES[1:], optimizer=sgd(0.03), metric=score)
    whole = [{"image": one["targets"][0], "label": one["label"], "image_id": one["image_id"]} for one in views(5)]
    data = Data(views(18), whole, collate_views, world=world, batch_size=6)
    data.val_collate = collate_classification
    return train(task, data, folder, world) | {"keys_of": net.seen}


CASES: dict[str, Case] = {
    "detection": detection,
    "segmentation": segmentation,
    "classification": classification,
    "gan": gan,
    "mask": partial(diffusion, "mask"),
    "phase": partial(diffusion, "phase"),
    "moco": moco,
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")]
Found = dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two processes found, and what one did, by family."""
    folder = tmp_path_factory.mktemp("processes")
    both = in_two_processes("tasks.test_two_processes", CASES, folder)
    return {name: (both[name], case(str(folder), 1)) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_the_whole_batch(name: str, found: Found) -> None:
    (one, two), whole = found[name]
    assert len(whole["losses"]) >= 2
    for *halves, expected in zip(one["losses"], two["losses"], whole["losses"], strict=True):
        for key in set(expected) - {"train/logit_sd", "train/feature_sd"}:  # spreads within a process
            assert sum(half[key] for half in halves) / 2 == pytest.approx(expected[key], abs=1e-5), key
    for gradients, expected in zip(one["gradients"], whole["gradients"], strict=True):
        assert set(gradients) == set(expected)
        assert sum(float(value.abs().sum()) for value in expected.values()) > 1e-3
        for key, value in expected.items():
            torch.testing.assert_close(
                gradients[key], value, atol=1e-5, rtol=1e-4, msg=lambda text, key=key: key + text
            )
    for key, value in whole["state"].items():
        assert torch.allclose(one["state"][key], value, atol=1e-5, rtol=1e-4), key
        assert torch.equal(one["state"][key], two["state"][key]), key


@pytest.mark.parametrize("name", CASES)
def test_scores_of_a_set_that_does_not_divide(name: str, found: Found) -> None:
    (one, two), whole = found[name]
    assert whole["scores"]
    assert one["scores"] == pytest.approx(whole["scores"], abs=1e-5, nan_ok=True)
    assert one["scores"] == pytest.approx(two["scores"], abs=0, nan_ok=True)


@pytest.mark.parametrize("name", CASES)
def test_each_sample_is_seen_once_an_epoch(name: str, found: Found) -> None:
    (one, two), whole = found[name]
    for first, second, batch in zip(one["seen"], two["seen"], whole["seen"], strict=True):
        assert [batch[0::2], batch[1::2]] == [first, second]
    seen = [name for batch in whole["seen"] for name in batch]
    assert len(set(seen)) == len(seen) >= 8
    assert len(one["validated"]) == len(two["validated"]) + 1
    assert sorted(one["validated"] + two["validated"]) == whole["validated"]


def test_keys_are_encoded_in_an_order_over_both_processes(found: Found) -> None:
    (one, two), whole = found["moco"]
    assert not any(name.startswith("net.key_") for name in whole["gradients"][0])
    assert int(whole["state"]["net.queue.pointer"]) == 18 % 14
    orders = []  # in which the momentum encoders saw the whole batch
    for images, *halves in zip(whole["keys_of"], one["keys_of"], two["keys_of"], strict=True):
        orders.append([int((images == image).flatten(1).all(1).nonzero()) for image in torch.cat(halves)])
        assert sorted(orders[-1]) == list(range(6))
    assert any(set(order[:3]) != {0, 2, 4} for order in orders)  # across the processes
    assert len(set(map(tuple, orders))) > 1  # anew at each step
