"""Load a checkpoint: network, class names and input description, ready to predict."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from numpy.typing import NDArray

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.classification import CropSpec
from hemolens.data.segmentation import PhaseSpec
from hemolens.errors import UserError
from hemolens.inference.classification import predict_probabilities
from hemolens.inference.detection import TILE_OVERLAP_PX, TILE_PX, InputSpec, predict_detections
from hemolens.inference.phase_inputs import PhaseInput, is_phase, read_input
from hemolens.inference.pictures import read_picture
from hemolens.inference.safety import check_targets
from hemolens.inference.segmentation import predict_segmentation
from hemolens.io.phase import PhaseImage
from hemolens.tasks.classification import ClassificationTask
from hemolens.tasks.precision import auto_precision
from hemolens.tasks.segmentation import SegmentationTask

Spec = TypeVar("Spec", InputSpec, CropSpec, PhaseSpec)

TASKS = (  # that can predict
    *("DetectionTask", "ClassificationTask"),
    *("SegmentationTask", "GANSegmentationTask", "MaskDDGANTask"),
)
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}  # Lightning's names


#: Name of the checkpoint that comes with hemolens: a small segmentation of stored red cells.
DEMO = "demo"


def demo_checkpoint() -> Path:
    """File of the checkpoint that comes with hemolens, with its model card and its calibration beside it."""
    return Path(__file__).parents[1] / "weights" / "demo.ckpt"


def checkpoint_file(name: str | Path) -> Path:
    """The file that a ``ckpt_path`` means: ``demo`` is the one that comes with hemolens."""
    return demo_checkpoint() if str(name) == DEMO else Path(name)


def missing_checkpoint(name: str | Path) -> str | None:
    """What to say where a ``ckpt_path`` names no file."""
    path = checkpoint_file(name)
    if path.is_file():
        return None
    return (
        f"no checkpoint at {path}: check ckpt_path (runs keep theirs in <run>/checkpoints/; ckpt_path={DEMO} is a "
        "small segmentation that comes with hemolens)"
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A hemolens checkpoint as plain data and tensors (``weights_only=True``); ``demo`` is the one in the package.

    Raises:
        UserError: the file is missing, damaged or not a hemolens checkpoint.
    """
    if missing := missing_checkpoint(path):
        raise UserError(missing)
    path = checkpoint_file(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise UserError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise UserError(f"{path} is not a hemolens checkpoint: give a best.ckpt or last.ckpt of a hemolens run")
    return checkpoint


def without_weight_files(net: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network that begins with no file of weights, since a checkpoint has them all."""
    started = {"pretrained": False, "init_from": None}
    changed: dict[str, Any] = {name: value for name, value in started.items() if name in net}
    if isinstance(net.get("backbone"), dict):
        changed["backbone"] = net["backbone"] | {"pretrained": False}
    return dict(net) | changed


def build_task(checkpoint: dict[str, Any], *, source: str | Path, **changes: Any) -> Any:
    """Rebuild the task that a checkpoint was saved from, with its weights, in evaluation mode.

    Only classes of hemolens itself are instantiated, and no pretrained file is looked for.

    Args:
        checkpoint: from :func:`read_checkpoint`.
        source: its path, for messages.
        **changes: task settings to replace, e.g. ``score_threshold``.

    Raises:
        UserError: the config names foreign code, the weights do not fit it, or the task has no such setting.
    """
    stored = checkpoint[KEY]
    config = stored["config"]
    net_config, task_config = dict(config["net"]), dict(config["model"])
    check_targets(net_config, source=str(source))
    check_targets(task_config, source=str(source))
    net_config = without_weight_files(net_config)
    kinds = inspect.getmro(get_class(task_config["_target_"]))
    known = {name for kind in kinds if kind is not object for name in inspect.signature(kind).parameters}
    if unknown := sorted(set(changes) - known):
        raise UserError(f"{source} holds a {stored['task']}, which has no {', '.join(unknown)}: leave it out")
    task: Any = instantiate(
        task_config | changes, net=instantiate(net_config), class_names=stored["class_names"], optimizer=None
    )
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"the weights in {source} do not fit the network it describes: {error}") from error
    return task.eval()


class Predictor(Generic[Spec]):
    """A trained network.

    Attributes:
        task: the task with its network.
        class_names: one name a label.
        input_spec: what the network takes, see :class:`hemolens.inference.detection.InputSpec`,
            :class:`hemolens.data.classification.CropSpec` and :class:`hemolens.data.segmentation.PhaseSpec`.
        config: the run's resolved config.
        precision: as asked, see :func:`load`.
    """

    def __init__(self, task: Any, input_spec: Spec, config: dict[str, Any], precision: str = "auto") -> None:
        if precision not in ("auto", *AUTOCAST):
            raise UserError(f"precision is {precision!r}: choose auto, {', '.join(AUTOCAST)}")
        self.task = task
        self.class_names = task.class_names
        self.input_spec: Spec = input_spec
        self.config = config
        self.precision = precision
        self.to(task.device)

    def to(self, device: str | torch.device) -> Self:
        """Move the network; returns itself."""
        self.task.to(device)
        kind = self.task.device.type
        name = auto_precision(kind) if self.precision == "auto" else self.precision
        self._autocast = AUTOCAST[name]
        if self._autocast is not None:
            self.task.channels_last = True  # what half precision runs fastest in
            self.task.setup("predict")
        return self

    def in_precision(self) -> torch.autocast:
        """The context in which to compute."""
        return torch.autocast(self.task.device.type, dtype=self._autocast, enabled=self._autocast is not None)


class PicturePredictor(Predictor[Spec]):
    """A network of pictures, of images or of projections of tomograms."""

    def read(self, path: str | Path, volume: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """What the network sees of a file; see :func:`hemolens.inference.pictures.read_picture`."""
        spec: Any = self.input_spec
        return read_picture(path, spec.view, volume)


class DetectionPredictor(PicturePredictor[InputSpec]):
    """A trained detector."""

    def predict(
        self,
        image: NDArray[Any] | str | Path,
        volume: Mapping[str, Any] | None = None,
        *,
        tile_px: int = TILE_PX,
        tile_overlap_px: int = TILE_OVERLAP_PX,
    ) -> dict[str, NDArray[Any]]:
        """Detect cells in one image.

        Args:
            image: [H, W] or [H, W, 3] array (uint8, uint16 or float), or the path of a PNG, JPEG or TIFF; of a tomogram
                too, where the detector was trained on projections.
            volume: what a tomogram's file does not state: keys of ``io.open_volume``.
            tile_px, tile_overlap_px: see :func:`hemolens.inference.detection.predict_detections`.

        Returns:
            ``boxes`` float32 [N, 4] xyxy in pixels of the given image, ``scores`` float32 [N] descending,
            ``labels`` int64 [N] into ``class_names``, ``probabilities`` float32 [N, C] of every class where a box comes
            from (a score is that of its class times the centerness).

        Raises:
            UserError: the file cannot be read, or the array has another shape.
        """
        array = self.read(image, volume) if isinstance(image, str | Path) else np.asarray(image)
        with self.in_precision():
            return predict_detections(self.task, array, self.input_spec, tile_px=tile_px, overlap_px=tile_overlap_px)


class ClassificationPredictor(PicturePredictor[CropSpec]):
    """A trained classifier of single cells."""

    def predict(
        self, image: NDArray[Any] | str | Path, volume: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Say what the cell in the middle of a picture is.

        Args:
            image, volume: as for :meth:`DetectionPredictor.predict`.

        Returns:
            ``probabilities`` float32 [K] in the order of ``class_names``, sum 1; ``label`` int64 [], the likeliest.

        Raises:
            UserError: the file cannot be read, or the array has another shape.
        """
        array = self.read(image, volume) if isinstance(image, str | Path) else np.asarray(image)
        with self.in_precision():
            probabilities = predict_probabilities(self.task, array, self.input_spec)
        return {"probabilities": probabilities, "label": np.asarray(probabilities.argmax())}


class SegmentationPredictor(Predictor[PhaseSpec]):
    """A trained segmentation of phase images."""

    def predict(
        self,
        image: PhaseImage | NDArray[Any] | str | Path,
        *,
        pixel_um: float | None = None,
        wavelength_um: float | None = None,
        cell_scores: bool = False,
        **windows: Any,
    ) -> dict[str, NDArray[Any]]:
        """The class of each pixel and the cells of a phase image.

        Args:
            image: phase [H, W] in rad, or the path of one (TIFF with floats, ``.npy``); holograms are reconstructed by
                ``hemolens reconstruct`` or ``hemolens predict``.
            pixel_um: side of a pixel, where the image does not state it; None everywhere: as in training.
            wavelength_um: in vacuum, where the image does not state it.
            cell_scores: whether to return ``cell_log_probability`` too: see
                :func:`hemolens.inference.segmentation.predict_segmentation`.
            windows: ``mode`` (auto, whole, windows, paper), ``window_px``, ``overlap_px``, ``patch_px``,
                ``batch_size``: see :func:`hemolens.postprocess.windows.segment_image`.

        Returns:
            ``classes`` uint8 (labels into ``class_names``), ``instances`` int32 (0 background, 1, 2, … cells) and
            ``probability`` float32 of the class, all [H, W].

        Raises:
            UserError: the file cannot be read, or is no phase image.
        """
        scale = {"pixel_um": pixel_um, "wavelength_um": wavelength_um}
        if isinstance(image, str | Path):
            path = Path(image)
            if path.is_file() and not is_phase(path):
                raise UserError(
                    f"{path} is no phase image (floats in rad): reconstruct holograms first, or use hemolens predict"
                )
            image, _ = read_input(PhaseInput(path.stem, path), scale)
        if not isinstance(image, PhaseImage):
            image = PhaseImage(np.asarray(image))
        for name, value in scale.items():
            if value is None:
                scale[name] = getattr(image, name)
        with self.in_precision():
            return predict_segmentation(
                self.task, image.phase_rad, self.input_spec, **scale, cell_scores=cell_scores, **windows
            )


def load(
    checkpoint: str | Path, *, device: str = "cpu", precision: str = "auto", **changes: Any
) -> DetectionPredictor | ClassificationPredictor | SegmentationPredictor:
    """Load a checkpoint of ``hemolens train`` for prediction.

    Args:
        checkpoint: path of a ``best.ckpt`` or ``last.ckpt``, or ``demo``.
        device: ``cpu``, ``cuda`` or ``auto``.
        precision: ``auto`` computes in half precision where the device does so in hardware, as training does
            (bfloat16 on a CPU with AVX512-BF16 or AMX: more than three times as fast); ``32-true``, ``bf16-mixed`` or
            ``16-mixed`` computes in that precision on every machine.
        **changes: post-processing of a detector to replace: ``score_threshold``, ``nms_iou``, ``max_detections``, …; of
            a segmentation ``cells``, the keys of ``postprocess.instances.cells_of_classes``.

    Returns:
        A :class:`DetectionPredictor`, :class:`ClassificationPredictor` or :class:`SegmentationPredictor`;
        ``load(path).predict(array)``.

    Raises:
        UserError: the file is missing, damaged, foreign, or of a task that cannot predict.
    """
    content = read_checkpoint(checkpoint)
    stored = content[KEY]
    if stored["task"] not in (known := TASKS):
        raise UserError(
            f"{checkpoint} holds a {stored['task']}: this version of hemolens predicts with {', '.join(known)} only"
        )
    task = build_task(content, source=checkpoint, **changes)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    task, config, given = task.to(device), stored["config"], stored["input"]
    if isinstance(task, ClassificationTask):
        return ClassificationPredictor(task, CropSpec.from_dict(given), config, precision)
    if isinstance(task, SegmentationTask):
        return SegmentationPredictor(task, PhaseSpec.from_dict(given), config, precision)
    return DetectionPredictor(task, InputSpec.from_dict(given), config, precision)
