"""``hemolens export`` as a command, on a trained detector."""

import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import Run


def test_export_writes_a_model_and_says_how_close_it_is(hemolens: Run, trained: Path, tmp_path: Path) -> None:
    import onnxruntime

    done = hemolens("export", f"ckpt_path={trained}/checkpoints/best.ckpt", "output=models/detector.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "models/detector.onnx" in done.stdout and "20 outputs" in done.stdout and "relative rms" in done.stdout
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["detector.onnx", "detector.onnx.json"]
    about = json.loads((tmp_path / "models" / "detector.onnx.json").read_text())
    assert about["class_names"] == ["RBC", "WBC", "Platelets"] and about["input"]["description"]["resize_hw"] == [
        96,
        128,
    ]
    session = onnxruntime.InferenceSession(
        str(tmp_path / "models" / "detector.onnx"), providers=["CPUExecutionProvider"]
    )
    found = session.run(["cls_logits_p3"], {"images": np.zeros((2, 3, 64, 96), np.float32)})
    assert found[0].shape == (2, 8 * 12, 3)
    again = hemolens("export", f"ckpt_path={trained}/checkpoints/best.ckpt", "output=models/detector.onnx")
    assert again.returncode == 2 and "exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "ckpt_path=…"),
        (["ckpt_path=nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["ckpt_path=nowhere.ckpt", "format=tflite"], "choose from onnx, openvino"),
        (["ckpt_path=nowhere.ckpt", "sizes=[64,64]"], "did you mean size"),
    ],
)
def test_a_slip_gives_one_line(hemolens: Run, words: list[str], expected: str) -> None:
    done = hemolens("export", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_lists_the_keys(hemolens: Run) -> None:
    done = hemolens("export", "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("ckpt_path", "output", "format", "size", "opset", "hemolens[export]"))
