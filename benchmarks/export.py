"""An exported ResUnet on the CPU, in onnxruntime and (where installed) OpenVINO, against torch in eager mode."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Comparison, Options, Side
from hemolens.inference.export import LEAST_OPSET, NamedOutputs, Shape, write_model
from hemolens.inference.exported import RUNTIMES, TOLERANCE, compare, eager, open_exported, require_libraries
from hemolens.nets.resunet import ResUnet

ENCODER, CLASSES = "resnet18", 5
DECODER = (256, 128, 64, 32, 16)  # configs/net/resunet18.yaml


def comparisons(options: Options) -> Iterator[Comparison]:
    """Four patches of paper B's size through a U-Net over a ResNet-18, with any size allowed, float32 throughout."""
    size = (1, 1, 64, 64) if options.quick else (4, 1, 256, 256)
    torch.manual_seed(0)
    net = NamedOutputs(ResUnet(CLASSES, 1, encoder=ENCODER, decoder_channels=DECODER)).eval()
    images = torch.randn(size, generator=torch.Generator().manual_seed(1))
    formats = [name for name in RUNTIMES if importlib.util.find_spec(RUNTIMES[name])]
    for format in formats:
        versions = require_libraries(format)
        runtime = RUNTIMES[format]
        yield Comparison(
            runtime,
            Side(
                f"{runtime} {versions[runtime]}",
                {"dtype": "float32", "threads": options.threads, "opset": LEAST_OPSET, "free": "batch, height, width"},
                exported_run(net, format, images.numpy(), options.threads),
            ),
            Side(
                f"torch {versions['torch']} eager",
                {"dtype": "float32", "layout": "NCHW", "threads": options.threads},
                lambda: eager(net, images)[0],
            ),
            check,
            f"logits within {TOLERANCE:g} (relative rms), the same class at 99.9 % of the pixels",
            work={
                "net": f"ResUnet {ENCODER}",
                "images": "×".join(map(str, size)),
                "classes": CLASSES,
                "parameters": sum(parameter.numel() for parameter in net.parameters()),
            },
        )


def exported_run(
    net: NamedOutputs, format: str, images: NDArray[np.float32], threads: int
) -> Callable[[], NDArray[np.float32]]:
    """The exported network on the images; its file is gone once it is read."""
    shape = Shape(images.shape[1], ResUnet.stride, (images.shape[2], images.shape[3]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.xml" if format == "openvino" else "model.onnx")
        write_model(net, shape, path, ["logits"], ("batch", "height", "width"), facts={}, opset=LEAST_OPSET)
        run = open_exported(path, format, threads=threads)
        run(images)  # whatever is read late is read now
    return lambda: run(images)[0]


def check(ours: Any, peer: Any) -> dict[str, float]:
    """The tolerance of ``hemolens export``."""
    try:
        return compare(["logits"], [peer], [ours])["logits"]
    except Exception as error:
        raise AssertionError(str(error)) from error
