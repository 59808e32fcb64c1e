"""Exported networks compute what the network computes, say what they are, and are kept whole or not at all."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.errors import UserError
from hemolens.inference import export as module
from hemolens.inference import exported
from hemolens.inference.export import NamedOutputs, Shape, export_checkpoint, named_outputs
from hemolens.inference.exported import compare, open_exported

ROOT = Path(__file__).resolve().parents[2]
SEGMENTATION = "hemolens.tasks.segmentation.SegmentationTask"
CLASSIFICATION = "hemolens.tasks.classification.ClassificationTask"
UNET = {
    "_target_": "hemolens.nets.baselines.UNet",
    "num_classes": 3,
    "in_channels": 1,
    "width": 4,
    "depth": 3,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(folder: Path, net: dict[str, Any], task: str, given: dict[str, Any], data: Any = None) -> Path:
    """A checkpoint of an untrained network, off its initial zeros."""
    pytest.importorskip(task.rpartition(".")[0])
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(net["num_classes"])]
    built = instantiate({"_target_": task}, net=instantiate(net), class_names=names)
    with torch.no_grad():
        for parameter in built.net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    stored = {
        "version": "0",
        "task": task.rpartition(".")[2],
        "config": {"net": net, "model": {"_target_": task}, "data": data},
        "class_names": names,
        "input": given,
    }
    path = folder / "best.ckpt"
    torch.save({"state_dict": built.state_dict(), KEY: stored}, path)
    return path


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    return save(tmp_path, UNET, SEGMENTATION, {"phase_limits_rad": [-1.0, 6.0]}, {"patch_px": 64})


def fcos() -> dict[str, Any]:
    net: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "net" / "fcos_r18_pafpn.yaml"))
    net["neck"]["out_channels"] = 16
    net["head"] |= {"feat_channels": 16, "norm_groups": 4, "stacked_convs": 1}
    return net


def own_outputs(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the network itself says, straight from the checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    net = instantiate(checkpoint[KEY]["config"]["net"])
    net.load_state_dict({key.removeprefix("net."): v for key, v in checkpoint["state_dict"].items() if "net." in key})
    with torch.no_grad():
        output = net.eval()(torch.from_numpy(images))
    if isinstance(output, Tensor):
        return {"logits": output.numpy()}
    return {f"{key}_p{3 + level}": x.numpy() for key, levels in output.items() for level, x in enumerate(levels)}


def test_a_segmentation_net_takes_any_multiple_of_its_stride(unet: Path, tmp_path: Path) -> None:
    made = export_checkpoint(unet)
    path = tmp_path / "best.onnx"
    assert made["output"] == str(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "best.onnx", "best.onnx.json"]
    about = json.loads((tmp_path / "best.onnx.json").read_text())
    assert about == {key: value for key, value in made.items() if key != "output"}
    assert about["task"] == "SegmentationTask" and about["checkpoint"] == "best.ckpt" and about["opset"] == 18
    assert about["class_names"] == ["class 0", "class 1", "class 2"]
    assert about["input"]["description"] == {"phase_limits_rad": [-1.0, 6.0]}
    assert about["input"]["shape"] == ["batch", 1, "8*height", "8*width"]
    assert about["varying"] == ["batch", "height", "width"] and about["fixed_because"] is None
    assert [check["images"] for check in about["parity"]["checks"]] == [[1, 1, 64, 64], [2, 1, 88, 112]]
    for check in about["parity"]["checks"]:
        assert 0 < check["outputs"]["logits"]["relative_rms"] < 1e-5
        assert check["outputs"]["logits"]["equal_argmax"] == 1
    assert about["time"]["runtime_over_eager"] > 0 and about["time"]["threads"] == 1
    images = np.random.default_rng(1).normal(size=(3, 1, 40, 24)).astype(np.float32)
    (found,) = open_exported(path, "onnx", threads=1)(images)
    np.testing.assert_allclose(found, own_outputs(unet, images)["logits"], atol=1e-4)
    with pytest.raises(UserError, match=r"onnxruntime fails at \[1, 2, 64, 64\]"):
        open_exported(path, "onnx", threads=1)(np.zeros((1, 2, 64, 64), np.float32))


def test_the_model_says_what_it_is_and_nothing_of_this_machine(unet: Path, tmp_path: Path) -> None:
    import onnxruntime

    export_checkpoint(unet, tmp_path / "models" / "unet.onnx", size=[32, 64])
    path = tmp_path / "models" / "unet.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert taken.name == "images" and taken.shape == ["batch", 1, 32, 64] and taken.type == "tensor(float)"
    facts = json.loads(session.get_modelmeta().custom_metadata_map["hemolens"])
    assert facts["class_names"] == ["class 0", "class 1", "class 2"] and facts["task"] == "SegmentationTask"
    for text in (str(ROOT), str(tmp_path), "site-packages"):
        assert text.encode() not in path.read_bytes()
        assert text not in path.with_name("unet.onnx.json").read_text()


def test_a_detector_gives_every_level(tmp_path: Path) -> None:
    path = save(tmp_path, fcos(), "hemolens.tasks.detection.DetectionTask", {"resize_hw": [60, 90]})
    made = export_checkpoint(path)
    levels = [f"p{level}" for level in range(3, 8)]
    kinds = ("cls_logits", "ltrb", "centerness_logits", "points")
    assert list(made["outputs"]) == [f"{kind}_{level}" for kind in kinds for level in levels]
    assert made["outputs"]["ltrb_p4"]["shape"] == ["batch", "cells_p4", 4]
    assert made["parity"]["checks"][0]["images"] == [1, 3, 64, 96]  # of training, padded
    assert made["decode"]["nms_iou"] == 0.6
    images = np.random.default_rng(1).normal(size=(2, 3, 96, 32)).astype(np.float32)
    found = open_exported(tmp_path / "best.onnx", "onnx", threads=1)(images)
    expected = own_outputs(path, images)
    assert list(expected) == list(made["outputs"])
    for name, values in zip(expected, found, strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("name", "net", "task", "given"),
    [
        (
            "classifier",
            {"_target_": "hemolens.nets.classifier.TimmClassifier", "name": "test_resnet", "pretrained": "absent.pth"},
            CLASSIFICATION,
            {"image_px": 50},
        ),
        (
            "resunet",
            {
                "_target_": "hemolens.nets.resunet.ResUnet",
                "encoder": "resnet18",
                "decoder_channels": [16, 8, 8, 8, 8],
            },
            SEGMENTATION,
            {},
        ),
    ],
)
def test_other_networks(name: str, net: dict[str, Any], task: str, given: dict[str, Any], tmp_path: Path) -> None:
    pretrained = {"pretrained": False} if "pretrained" in net else {}
    path = save(tmp_path, {**net, **pretrained, "num_classes": 3, "in_channels": 1}, task, given)
    made = export_checkpoint(path)
    assert made["varying"] == ["batch", "height", "width"] and made["parity"]["worst_relative_rms"] < 1e-5
    side = 50 if name == "classifier" else 256
    assert made["parity"]["checks"][0]["images"] == [1, 1, side, side]


def test_what_cannot_vary_is_said_and_fixed(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.write_model

    def write(net: Any, shape: Any, path: Path, names: Any, varying: Any, **more: Any) -> Any:
        if "height" in varying:
            raise UserError("windows of 7")
        return real(net, shape, path, names, varying, **more)

    monkeypatch.setattr(module, "write_model", write)
    made = export_checkpoint(unet)
    assert made["varying"] == ["batch"] and made["size"] == [64, 64] and made["fixed_because"] == "windows of 7"
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("height, width cannot vary in this network (windows of 7): fixed to 64x64")
    assert [check["images"] for check in made["parity"]["checks"]] == [[1, 1, 64, 64], [2, 1, 64, 64]]


@pytest.mark.slow
def test_pooling_into_fixed_bins_is_exported_at_a_fixed_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = {"_target_": "hemolens.nets.baselines.PSPNet", "encoder": "resnet18", "width": 8, "num_classes": 3}
    made = export_checkpoint(save(tmp_path, net | {"in_channels": 1}, SEGMENTATION, {}, {"patch_px": 64}))
    assert made["varying"] == ["batch"] and made["size"] == [64, 64] and "cannot vary" in caplog.text


def test_a_model_that_computes_something_else_is_not_kept(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = exported._in_onnxruntime
    monkeypatch.setattr(exported, "_in_onnxruntime", lambda *a: lambda images: [1.01 * x for x in opened(*a)(images)])
    with pytest.raises(UserError, match=r"not exported: logits differs by 0\.01 \(relative rms\), 0\.0001 is allowed"):
        export_checkpoint(unet, size=[32, 32])
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_comparison_is_that_of_its_definition() -> None:
    ours = np.array([[[1.0, -2.0]], [[0.5, 3.0]]], np.float32)  # [B, N, K]
    theirs = ours * np.float32(1 + 5e-5)
    result = compare(["cls_logits_p3"], [ours], [theirs])["cls_logits_p3"]
    assert result["relative_rms"] == pytest.approx(5e-5, rel=2e-2) and result["equal_argmax"] == 1
    assert compare(["ltrb_p3"], [0 * ours], [0 * ours]) == {"ltrb_p3": {"relative_rms": 0.0}}
    near = np.array([[[1.0, 1.00001]]], np.float32)
    with pytest.raises(UserError, match=r"same likeliest class at 0\.00%"):
        compare(["cls_logits_p3"], [near], [near[..., ::-1]])
    with pytest.raises(UserError, match="points_p3 differs by nan"):
        compare(["points_p3"], [ours], [theirs * np.float32(np.nan)])
    with pytest.raises(UserError, match=r"logits is \[1, 1, 2\] and should be \[2, 1, 2\]"):
        compare(["logits"], [ours], [theirs[:1]])


def test_sizes_that_are_traced_are_none_that_are_checked() -> None:
    for multiple, size in ((1, (112, 112)), (8, (64, 88)), (32, (96, 64)), (256, (256, 256))):
        shape = Shape(1, multiple, size)
        varying = ("batch", "height", "width")
        traced, checked = shape.traced(varying), shape.checked(varying)
        assert traced[2] != traced[3] and traced not in checked and len(set(checked)) == 2
        assert all(side % multiple == 0 for sides in (traced, *checked) for side in sides[2:])


def test_outputs_of_another_kind_are_refused() -> None:
    class Pair(nn.Module):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [images, images]

    with pytest.raises(UserError, match="Pair gives a list"):
        named_outputs(Pair(), [torch.zeros(1)])
    with pytest.raises(UserError, match="Pair gives a list"):
        NamedOutputs(Pair())(torch.zeros(1))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"size": [60, 64]}, r"multiples of 8, e\.g\. size=\[64,64\]"),
        ({"size": 64}, r"size=64: give size=\[height,width\]"),
        ({"size": [64, 0]}, r"give size=\[height,width\]"),
        ({"format": "tflite"}, "choose from onnx, openvino"),
        ({"output": "model.pt"}, r"ends in \.onnx"),
        ({"opset": 17}, "from 18"),
        ({"opset": 99, "size": [32, 32]}, "more than this torch and onnx can write"),
    ],
)
def test_wrong_settings_are_refused(unet: Path, tmp_path: Path, words: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        export_checkpoint(unet, **words)
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_nothing_is_overwritten(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*nowhere\.ckpt"):
        export_checkpoint(tmp_path / "nowhere.ckpt")
    for name in ("best.onnx.json", "best.onnx"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} exists"):
            export_checkpoint(unet)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("missing", "format", "extra"),
    [
        ("onnxruntime", "onnx", "export"),
        ("onnxscript", "openvino", "export"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_library_is_named(
    unet: Path, monkeypatch: pytest.MonkeyPatch, missing: str, format: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing} is missing.*pip install 'hemolens\[{extra}\]'"):
        export_checkpoint(unet, format=format)


def test_openvino_is_a_folder(unet: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = export_checkpoint(unet, format="openvino")
    folder = tmp_path / "best_openvino"
    assert made["output"] == str(folder) and made["varying"] == ["batch", "height", "width"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.json", "model.xml"]
    assert str(tmp_path) not in (folder / "model.xml").read_text()
    images = np.random.default_rng(1).normal(size=(3, 1, 40, 24)).astype(np.float32)
    (found,) = open_exported(folder / "model.xml", "openvino", threads=1)(images)
    np.testing.assert_allclose(found, own_outputs(unet, images)["logits"], atol=1e-4)
    with pytest.raises(UserError, match="exists"):
        export_checkpoint(unet, format="openvino")
