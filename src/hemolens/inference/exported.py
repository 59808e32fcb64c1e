"""Run an exported network, and compare it with the network that it was made from.

The libraries that run it are extras, so they are imported by name where they are needed.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hemolens.errors import UserError

FORMATS = ("onnx", "openvino")
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
# Float32 sums in another order differ by about 1e-6 after some fifty layers; a wrong layer by 1e-2 and more.
TOLERANCE = 1e-4
LEAST_EQUAL_ARGMAX = 0.999  # the rest are near ties
CLASS_AXIS = {"logits": 1, "cls_logits": 2}  # of the outputs that say which class
PAIRS = 5  # that the ratio of times is the median of

Run = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]


def library(name: str, extra: str) -> Any:
    """A library of one of hemolens' extras.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is missing ({error}): pip install 'hemolens[{extra}]'") from error


def require_libraries(format: str) -> dict[str, str]:
    """Versions of what writes and runs a format, by name.

    Raises:
        UserError: an unknown format, or one of them is missing.
    """
    if format not in FORMATS:
        raise UserError(f"format={format}: choose from {', '.join(FORMATS)}")
    names = {"onnx": "export", "onnxscript": "export"}
    names |= {"onnxruntime": "export"} if format == "onnx" else {"openvino": "openvino"}
    found = {name: str(library(name, extra).__version__) for name, extra in names.items()}
    return {"torch": torch.__version__, **found}


def open_exported(path: str | Path, format: str, *, threads: int) -> Run:
    """An exported network on the CPU in float32, as a function of images.

    Args:
        path: the ``.onnx`` file, or the ``.xml`` beside its ``.bin``.
        format: ``onnx`` or ``openvino``.
        threads: that it computes with.

    Returns:
        Maps float32 [B, C, H, W] to the outputs in their order. It raises UserError where the runtime cannot compute
        that shape.

    Raises:
        UserError: the library is missing or cannot read the file.
    """
    opened: Run
    try:
        opened = _in_openvino(path, threads) if format == "openvino" else _in_onnxruntime(path, threads)
    except UserError:
        raise
    except Exception as error:  # each runtime raises kinds of its own
        raise UserError(f"{RUNTIMES[format]} cannot read the model: {_first_line(error)}", exit_code=1) from error

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        try:
            return opened(images)
        except Exception as error:
            shape = list(images.shape)
            raise UserError(f"{RUNTIMES[format]} fails at {shape}: {_first_line(error)}", exit_code=1) from error

    return run


def _in_onnxruntime(path: str | Path, threads: int) -> Run:
    runtime = library("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are raised; its log would say them a second time
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda images: session.run(None, {name: images})


def _in_openvino(path: str | Path, threads: int) -> Run:
    runtime = library("openvino", "openvino")
    # Where the processor has bfloat16, OpenVINO would else compute in it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = runtime.Core().compile_model(str(path), "CPU", settings)

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = model([images])
        return [np.array(found[index]) for index in range(len(model.outputs))]

    return run


def compare(
    names: Sequence[str], expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    """How far an exported network's outputs are from the network's own.

    Args:
        names: of the outputs, as :func:`hemolens.inference.export.named_outputs` gives them.
        expected, found: arrays in that order.

    Returns:
        By output ``relative_rms``, the root mean square difference over the root mean square of ``expected``, and of
        class logits ``equal_argmax``, the share of places with the same likeliest class.

    Raises:
        UserError: the shapes differ, or an output differs by more than :data:`TOLERANCE` or in more than one of a
            thousand classes.
    """
    result = {}
    for name, ours, theirs in zip(names, expected, found, strict=True):
        if ours.shape != theirs.shape:
            raise UserError(f"{name} is {list(theirs.shape)} and should be {list(ours.shape)}", exit_code=1)
        difference = float(np.sqrt(np.mean(np.square(theirs.astype(np.float64) - ours))))
        scale = float(np.sqrt(np.mean(np.square(ours.astype(np.float64)))))
        # distances may be 0 at every cell of a small level
        result[name] = {"relative_rms": float(f"{difference / scale if scale else difference:.3g}")}
        if not result[name]["relative_rms"] <= TOLERANCE:  # so that NaN fails too
            raise UserError(
                f"{name} differs by {result[name]['relative_rms']:.2g} (relative rms), {TOLERANCE:g} is allowed",
                exit_code=1,
            )
        axis = CLASS_AXIS.get(name.rpartition("_p")[0] or name)
        if axis is not None:
            equal = float(np.mean(ours.argmax(axis) == theirs.argmax(axis)))
            result[name]["equal_argmax"] = float(f"{equal:.6g}")
            if equal < LEAST_EQUAL_ARGMAX:
                raise UserError(f"{name} has the same likeliest class at {equal:.2%} of its places only", exit_code=1)
    return result


def check_parity(net: nn.Module, run: Run, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Compare an exported network with the network on random images of each shape.

    Args:
        net: on the CPU, in evaluation mode; gives a tuple of float32 tensors.
        run: from :func:`open_exported`.
        names: of the outputs.
        shapes: [B, C, H, W] of each check. Values are normally distributed, mean 0 and standard deviation 1.

    Returns:
        ``tolerance``, ``worst_relative_rms``, and ``checks``: a shape and its :func:`compare`.

    Raises:
        UserError: the outputs differ too much, or the runtime cannot compute one of the shapes.
    """
    generator = torch.Generator().manual_seed(0)
    checks: list[dict[str, Any]] = []
    for shape in shapes:
        images = torch.randn(*shape, generator=generator)
        outputs = compare(names, eager(net, images), run(images.numpy()))
        checks.append({"images": list(shape), "outputs": outputs})
    worst = max(values["relative_rms"] for check in checks for values in check["outputs"].values())
    return {"tolerance": TOLERANCE, "worst_relative_rms": worst, "checks": checks}


@torch.inference_mode()
def eager(net: nn.Module, images: Tensor) -> list[NDArray[np.float32]]:
    """Outputs of the network for images [B, C, H, W], as arrays."""
    return [output.numpy() for output in net(images)]


def time_beside_eager(net: nn.Module, run: Run, shape: Sequence[int], threads: int) -> dict[str, Any]:
    """Time an exported network and the network in turn, each after a warm-up.

    Returns:
        ``runtime_over_eager``, the median ratio of wall times over :data:`PAIRS` pairs (below 1: the exported network
        is faster), the medians ``runtime_ms`` and ``eager_ms``, and what they were taken at.
    """
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    array = images.numpy()
    calls: list[Callable[[], Any]] = [lambda: run(array), lambda: eager(net, images)]
    times = np.array([[_seconds(call) for call in calls] for _ in range(PAIRS + 1)][1:])
    runtime_s, eager_s = np.median(times, axis=0)
    return {
        "runtime_over_eager": float(f"{np.median(times[:, 0] / times[:, 1]):.3g}"),
        "runtime_ms": float(f"{1e3 * runtime_s:.4g}"),
        "eager_ms": float(f"{1e3 * eager_s:.4g}"),
        "images": list(shape),
        "pairs": PAIRS,
        "threads": threads,
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace("[ONNXRuntimeError] : ", "")[:120]
