"""Export a checkpoint's network to ONNX or OpenVINO; it is kept only if it computes what the network computes.

Shape suffixes: B batch, C channels, H W pixels, K classes, N cells of a level.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.errors import UserError
from hemolens.inference.detection import SIZE_DIVISOR
from hemolens.inference.exported import check_parity, library, open_exported, require_libraries, time_beside_eager
from hemolens.inference.load import build_task, read_checkpoint
from hemolens.io.atomic import atomic_folder, atomic_path, write_json

log = logging.getLogger(__name__)

LEAST_OPSET = 18  # what torch's exporter writes without converting
DEFAULT_PX = 256  # side where the checkpoint does not say what it was trained at
LARGEST_PX = 2**15  # side that a size may have
ONE_FILE = 2**31 - 2**24  # bytes of weights that fit into one file of protocol buffers, with room for the graph
AXES = {"batch": 0, "height": 2, "width": 3}
# From the most that may vary to nothing; the first that the network allows is taken.
WITH_ANY_SIZE: tuple[tuple[str, ...], ...] = (("batch", "height", "width"), ("batch",), ())
MEANING = {
    "logits": "scores of the classes before the softmax, [batch, classes, ...]",
    "cls_logits": "[batch, cells, classes]: scores before the sigmoid; cells of the level row by row",
    "ltrb": "[batch, cells, 4]: distances to the left, top, right and bottom side in pixels",
    "centerness_logits": "[batch, cells]: before the sigmoid",
    "points": "[cells, 2]: x, y of the middle of each cell in pixels",
}
INPUT = (
    "float32 [batch, channels, height, width], as the network takes it: already resized, scaled and normalised as "
    "`description` (the checkpoint's own) says, and padded to multiples of `multiple_of_px`"
)


@dataclass(frozen=True)
class Shape:
    """What images a network is exported for.

    Args:
        channels: C.
        multiple: H and W are multiples of it, in pixels.
        size: (H, W) in pixels that is fixed, or that is checked first where it may vary.
    """

    channels: int
    multiple: int
    size: tuple[int, int]

    def traced(self, varying: Sequence[str]) -> tuple[int, int, int, int]:
        """[B, C, H, W] to trace: of a size that no check has, and that is no square."""
        if "height" not in varying:
            return (2 if varying else 1, self.channels, *self.size)
        height, width = self.size[0] + 2 * self._step, self.size[1] + self._step
        return (2, self.channels, height, width + 2 * self._step * (height == width))

    def checked(self, varying: Sequence[str]) -> list[tuple[int, int, int, int]]:
        """[B, C, H, W] of each parity check."""
        shapes = [(1, self.channels, *self.size)]
        if "height" in varying:
            shapes.append((2, self.channels, self.size[0] + self._step, self.size[1] + 2 * self._step))
        elif varying:
            shapes.append((2, self.channels, *self.size))
        return shapes

    def dynamic(self, varying: Sequence[str]) -> dict[int, Any]:
        """The axes that vary, for ``torch.export``."""
        least, most = max(1, 32 // self.multiple), LARGEST_PX // self.multiple
        dims: dict[int, Any] = {}
        for name in varying:
            if name == "batch":
                dims[AXES[name]] = torch.export.Dim(name, min=1, max=2**16)
            else:  # named in steps, so that the exported input is called e.g. 32*height
                dims[AXES[name]] = self.multiple * torch.export.Dim(name, min=least, max=most)
        return dims

    @property
    def _step(self) -> int:
        return self.multiple * -(-21 // self.multiple)  # odd where it may be, so that halves are rounded


class NamedOutputs(nn.Module):
    """A network that gives its outputs as a flat tuple, in the order of :func:`named_outputs`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs for float32 images [B, C, H, W]."""
        return tuple(named_outputs(self.net, self.net(images)).values())


def named_outputs(net: Any, output: Any) -> dict[str, Tensor]:
    """Outputs of a network by name: ``logits`` of a tensor; ``cls_logits_p3``, ... of lists with an entry a level.

    A level is named by the logarithm of its stride: p3 has 8 pixels a cell.

    Raises:
        UserError: the network gives something else.
    """
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, dict) and all(len(levels) == len(net.strides) for levels in output.values()):
        return {
            f"{key}_p{stride.bit_length() - 1}": level
            for key, levels in output.items()
            for stride, level in zip(net.strides, levels, strict=True)
        }
    raise UserError(
        f"{type(net).__name__} gives a {type(output).__name__}: a network can be exported that gives one tensor, or a "
        "dict of lists with a tensor for each of its strides"
    )


def export_checkpoint(
    ckpt_path: str | Path,
    output: str | Path | None = None,
    *,
    format: str = "onnx",
    size: Sequence[int] | None = None,
    opset: int = LEAST_OPSET,
) -> dict[str, Any]:
    """Export the network of a checkpoint.

    Args:
        ckpt_path: a ``best.ckpt`` or ``last.ckpt`` of a hemolens run.
        output: a new ``.onnx`` file, beside which ``<output>.json`` is written; or, for OpenVINO, a new folder of
            ``model.xml``, ``model.bin`` and ``model.json``. None: ``<checkpoint>.onnx`` or ``<checkpoint>_openvino``
            beside the checkpoint.
        format: ``onnx`` or ``openvino``.
        size: (H, W) in pixels that the exported network takes. None: any multiple of the network's stride where that
            can be exported, else the size that it was trained at.
        opset: of ONNX, at least 18.

    Returns:
        What the JSON file says, and under ``output`` the path of the file or folder.

    Raises:
        UserError: a path, format or size that does not do; a missing library; a network that cannot be exported or
            whose export computes something else. Nothing is left behind then.
    """
    ckpt_path = Path(ckpt_path)
    versions = require_libraries(format)
    if not isinstance(opset, int) or opset < LEAST_OPSET:
        raise UserError(f"opset={opset}: give a whole number from {LEAST_OPSET}")
    checkpoint = read_checkpoint(ckpt_path)
    stored = checkpoint[KEY]
    target = Path(output) if output else _beside(ckpt_path, format)
    about = target.with_name(target.name + ".json")
    _check_target(target, about, format)
    if stored["task"].endswith("DDGANTask"):
        raise UserError(
            f"{ckpt_path} holds a {stored['task']}, which makes images of noise in several steps: use hemolens predict "
            "or generate"
        )
    task = build_task(checkpoint, source=ckpt_path)
    net = NamedOutputs(task.net).eval()
    if _bytes_of(net) > ONE_FILE:
        raise UserError(f"the weights of {ckpt_path} take {_bytes_of(net) / 1e9:.1f} GB: one ONNX file holds 2 GB")
    shape = _shape_of(task.net, stored, size)
    facts: dict[str, Any] = {
        "hemolens": version("hemolens"),
        "task": stored["task"],
        "class_names": list(task.class_names),
        "checkpoint": ckpt_path.name,
        "input": {"name": "images", "what": INPUT, "multiple_of_px": shape.multiple, "description": stored["input"]},
    }

    if hasattr(task, "decode_settings"):
        facts["decode"] = dict(task.decode_settings)  # how outputs become boxes

    def report(made: dict[str, Any]) -> dict[str, Any]:
        taken = facts["input"] | {"shape": made.pop("images")}
        return {**facts, "input": taken, "format": format, "opset": opset, **made, "versions": versions}

    if format == "openvino":
        with atomic_folder(target) as folder:
            result = report(_make(net, shape, folder / "model.xml", facts, opset=opset, free_size=size is None))
            write_json(folder / "model.json", result)
    else:
        with atomic_path(about) as about_file, atomic_path(target) as model_file:
            result = report(_make(net, shape, model_file, facts, opset=opset, free_size=size is None))
            about_file.write_text(json.dumps(result, indent=2) + "\n")
    return result | {"output": str(target)}


def _beside(ckpt_path: Path, format: str) -> Path:
    return ckpt_path.with_name(f"{ckpt_path.stem}_openvino" if format == "openvino" else f"{ckpt_path.stem}.onnx")


def _check_target(target: Path, about: Path, format: str) -> None:
    if format == "onnx" and target.suffix != ".onnx":
        raise UserError(f"output={target}: give a file that ends in .onnx")
    for path in (target, *([about] if format == "onnx" else [])):
        if path.exists():
            raise UserError(f"{path} exists: choose another output or remove it first")


def _bytes_of(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


def _shape_of(net: Any, stored: Mapping[str, Any], size: Sequence[int] | None) -> Shape:
    """The images to export for: ``size``, or what the network was trained at."""
    # classifiers pool whatever there is
    multiple = SIZE_DIVISOR if hasattr(net, "strides") else int(getattr(net, "stride", 1))
    channels = int(stored["config"]["net"]["in_channels"])
    if size is None:
        height, width = (-(-side // multiple) * multiple for side in _trained_size(stored))
        return Shape(channels, multiple, (height, width))
    sides = size if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"size={size}: give size=[height,width] in pixels")
    if any(side % multiple for side in size):
        near = ",".join(str(-(-side // multiple) * multiple) for side in size)
        raise UserError(f"size={list(size)}: the network takes multiples of {multiple}, e.g. size=[{near}]")
    return Shape(channels, multiple, (int(size[0]), int(size[1])))


def _trained_size(stored: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) in pixels of the images, pictures or patches in training, as far as the checkpoint says."""
    given, data = stored["input"], stored["config"].get("data") or {}
    if given.get("resize_hw"):
        return int(given["resize_hw"][0]), int(given["resize_hw"][1])
    side = int(given.get("image_px") or data.get("patch_px") or DEFAULT_PX)
    return side, side


def _make(
    net: NamedOutputs, shape: Shape, path: Path, facts: Mapping[str, Any], *, opset: int, free_size: bool
) -> dict[str, Any]:
    """Write the model with as much left free as can be, check and time it; returns what the JSON says of it."""
    example = torch.zeros(1, shape.channels, *shape.size)
    with torch.inference_mode():
        outputs = named_outputs(net.net, net.net(example))
    threads = torch.get_num_threads()
    reason = None
    for varying in WITH_ANY_SIZE if free_size else WITH_ANY_SIZE[1:]:
        try:
            written = write_model(net, shape, path, list(outputs), varying, facts=facts, opset=opset)
            run = open_exported(path, "openvino" if path.suffix == ".xml" else "onnx", threads=threads)
            parity = check_parity(net, run, list(outputs), shape.checked(varying))
            break
        except UserError as error:
            if not varying:
                raise UserError(f"not exported: {error}", exit_code=error.exit_code) from error
            log.debug("%s cannot vary", ", ".join(varying), exc_info=True)
            reason = str(error)
    fixed = [name for name in (AXES if free_size else ("batch",)) if name not in varying]
    if fixed:
        height, width = shape.size
        log.warning(
            "%s cannot vary in this network (%s): fixed to %s%dx%d (height x width; size=[H,W] sets another)",
            ", ".join(fixed),
            reason,
            "one image of " if "batch" in fixed else "",
            height,
            width,
        )
    return {
        "varying": list(varying),
        "size": None if "height" in varying else list(shape.size),
        "fixed_because": reason if fixed else None,
        "images": written.pop("images"),
        "outputs": {
            name: {"shape": dims, "what": MEANING.get(name.rpartition("_p")[0] or name)}
            for name, dims in written.items()
        },
        "bytes": sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.exists()),
        "parity": parity,
        "time": time_beside_eager(net, run, shape.checked(varying)[0], threads),
    }


def write_model(
    net: NamedOutputs,
    shape: Shape,
    path: Path,
    names: list[str],
    varying: Sequence[str],
    *,
    facts: Mapping[str, Any],
    opset: int = LEAST_OPSET,
) -> dict[str, list[int | str]]:
    """Trace a network and write it, unchecked.

    Args:
        net: in evaluation mode, on the CPU.
        shape: the images it takes.
        path: an ``.onnx`` file, or an ``.xml`` for OpenVINO, which gets a ``.bin`` beside it.
        names: of the outputs.
        varying: which of batch, height and width may vary.
        facts: plain data to keep in an ``.onnx`` file, as JSON under ``hemolens`` in its metadata.
        opset: of ONNX.

    Returns:
        Shapes of ``images`` and of each output: numbers, and names of the sides that vary.

    Raises:
        UserError: torch cannot export it so.
    """
    images = torch.zeros(shape.traced(varying))
    dynamic = (shape.dynamic(varying),)
    with _silence():
        try:
            program: Any = torch.onnx.export(
                net,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=dynamic,
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # torch wraps whatever the network raised
            cause = error.__cause__ or error
            text = " ".join(str(cause).split())[:160]
            raise UserError(f"torch's exporter: {type(cause).__name__}: {text}", exit_code=1) from error
    model = program.model
    if model.opset_imports[""] != opset:
        raise UserError(f"opset={opset} is more than this torch and onnx can write: leave it out for {LEAST_OPSET}")
    _tidy(model, facts)
    values = [*model.graph.inputs, *model.graph.outputs]
    shapes = {value.name: [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape] for value in values}
    onnx_path = path.with_suffix(".onnx")
    program.save(str(onnx_path), external_data=False)
    if path != onnx_path:
        openvino = library("openvino", "openvino")
        try:
            openvino.save_model(openvino.Core().read_model(str(onnx_path)), str(path), compress_to_fp16=False)
        except Exception as error:
            raise UserError(f"openvino cannot convert it: {' '.join(str(error).split())[:160]}", exit_code=1) from error
        onnx_path.unlink()
    return shapes


def _tidy(model: Any, facts: Mapping[str, Any]) -> None:
    """Say in the model what it is, and take out what the exporter says of this machine and of its own steps."""
    for part in (model, model.graph, *model.graph.all_nodes()):
        part.metadata_props.clear()  # stack traces with paths, among others
        for value in getattr(part, "outputs", ()):
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props["hemolens"] = json.dumps(facts)
    for value in model.graph.outputs:
        _, _, level = value.name.rpartition("_p")
        axis = 0 if value.name.startswith("points_") else 1
        if level.isdigit() and not isinstance(value.shape[axis], int):
            value.shape[axis] = f"cells_p{level}"  # in place of a formula of height and width


@contextmanager
def _silence() -> Iterator[None]:
    """Torch and onnxscript log what they tried; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
