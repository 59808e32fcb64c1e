"""Which data, tasks and networks go together; each check gives the line to print, or None."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L

from hemolens.data.modules.crops import CropDataModule
from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.modules.two_crops import TwoCropDataModule
from hemolens.nets.baselines import FCN, DeepLabV3Plus, DeepResUNet, PSPNet, UNet
from hemolens.nets.classifier import TimmClassifier
from hemolens.nets.ddgan.generator import mask_generator, phase_generator
from hemolens.nets.fcos.model import FCOS
from hemolens.nets.moco import MoCo
from hemolens.nets.resunet import ResUnet
from hemolens.tasks.adversarial import AdversarialTask
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.ddgan import MaskDDGANTask, PhaseDDGANTask
from hemolens.tasks.detection import DetectionTask
from hemolens.tasks.moco import MoCoReconstructionTask
from hemolens.tasks.segmentation import SegmentationTask


class _Kind(NamedTuple):
    """A kind of data, the task that takes its batches, and what to say to get either."""

    data: type
    tasks: tuple[type, ...]
    what: str
    model: str
    example: str


_KINDS = (  # the first that fits
    _Kind(
        CropDataModule,
        (ClassificationTask,),
        "pictures of one cell each",
        "model=classification net=cls_resnet18",
        "data=blood_cells",
    ),
    _Kind(
        PhaseImageDataModule,
        (SegmentationTask, PhaseDDGANTask),
        "phase images with masks",
        "model=segmentation net=resunet18",
        "data=sim_holograms",
    ),
    _Kind(
        TwoCropDataModule,
        (MoCoReconstructionTask,),
        "two crops of each image",
        "model=moco_reconstruction net=moco_resnet18",
        "data=unlabelled",
    ),
    _Kind(L.LightningDataModule, (DetectionTask,), "fields with boxes", "model=detection", "data=sim_tomograms"),
)


class _Family(NamedTuple):
    """Networks, the task that trains them, and what to say to get either."""

    nets: tuple[Any, ...]
    task: type
    what: str
    model: str
    example: str


_FAMILIES = (  # the first that fits: a mask generator is a segmentation too
    _Family((mask_generator,), MaskDDGANTask, "a generator of masks", "ddgan_mask", "ddgan_mask_s"),
    _Family((phase_generator,), PhaseDDGANTask, "a generator of phase images", "ddgan_phase", "ddgan_phase_s"),
    _Family((MoCo,), MoCoReconstructionTask, "for pretraining", "moco_reconstruction", "moco_resnet18"),
    _Family((TimmClassifier,), ClassificationTask, "a classifier", "classification", "cls_resnet18"),
    _Family((FCOS,), DetectionTask, "a detector", "detection", "fcos_r18_pafpn"),
    _Family(
        (ResUnet, UNet, DeepLabV3Plus, FCN, PSPNet, DeepResUNet),
        SegmentationTask,
        "a segmentation network",
        "segmentation",
        "resunet18",
    ),
)


def wrong_data(task: type, data: type) -> str | None:
    """Data whose batches the task cannot take."""
    given = next((kind for kind in _KINDS if issubclass(data, kind.data)), None)
    own = next((kind for kind in _KINDS if issubclass(task, kind.tasks)), None)
    if given is None or own is None or issubclass(task, given.tasks):
        return None
    return f"the data are {given.what}, which a {task.__name__} cannot take: add {given.model}, or choose {own.example}"


def wrong_net(task: type, net: Any) -> str | None:
    """A network of hemolens that another task trains; of foreign ones nothing is known."""
    given = next((family for family in _FAMILIES if net in family.nets), None)
    own = next((family for family in _FAMILIES if issubclass(task, family.task)), None)
    if given is None or own is None or given is own:
        return None
    return (
        f"the network is {given.what}, which a {task.__name__} cannot train: add model={given.model}, or choose "
        f"net={own.example}"
    )


def wrong_classes(num_classes: int, class_names: Sequence[str]) -> str | None:
    """A network whose outputs do not fit the data's classes."""
    if num_classes == len(class_names):
        return None
    return (
        f"net.num_classes={num_classes}, but the data has {len(class_names)} classes ({', '.join(class_names)}): leave "
        "net.num_classes out, it follows the data"
    )


def wrong_side(image_px: int | None, data: type, patch_px: int | None, binning: int | None) -> str | None:
    """Training images of another size than the one that a network is made for."""
    if not image_px or not issubclass(data, PhaseImageDataModule) or patch_px is None or not binning:
        return None
    if image_px * binning == patch_px:
        return None
    return (
        f"net.image_px={image_px}, but data.patch_px={patch_px} / data.binning={binning} gives training images of "
        f"{patch_px // binning} px: make them equal"
    )


def wrong_condition(task: type, net: Any, condition: str | None, of_mask: bool) -> str | None:
    """A generator of phase images that is told to see masks, and whose network does not, or the reverse."""
    if not issubclass(task, PhaseDDGANTask) or net is not phase_generator or (condition == "mask") == of_mask:
        return None
    if of_mask:
        return "net.of_mask=true makes phase images of masks: add model.condition=mask, or choose net=ddgan_phase_s"
    return (
        f"model.condition={condition} makes phase images of masks: choose net=ddgan_phase_of_mask_s (net.of_mask=true)"
    )


def ignored_settings(task: type, trainer: Mapping[str, Any]) -> list[str]:
    """Settings of the trainer that a task which steps its own optimizers does not follow."""
    if not issubclass(task, AdversarialTask):
        return []
    return [
        f"trainer.{name}={trainer[name]}: a {task.__name__} steps its own optimizers; set "
        f"trainer.{name}={'null' if plain is None else plain} (it clips by model.gradient_clip_norm)"
        for name, plain in (("gradient_clip_val", None), ("accumulate_grad_batches", 1))
        if trainer.get(name, plain) not in (plain, 0)
    ]


def unknown_metric(task: type, name: str, class_names: Sequence[str] | None) -> str | None:
    """A validation metric that the task never logs; of others nothing is said."""
    logged = [one for one in task.metrics if one.startswith("val/")]  # type: ignore[attr-defined]
    if not name.startswith("val/"):
        return None
    each = [one.removesuffix("*") for one in logged if one.endswith("*")]  # "val/ap_*": one a class
    if name in logged or (class_names is None and name.startswith(tuple(each))):
        return None
    if any(name == f"{prefix}{kind}" for prefix in each for kind in class_names or ()):
        return None
    known = [one.replace("*", "<class>") for one in logged]
    return f"a {task.__name__} does not log {name}; it logs {', '.join(known)}"
