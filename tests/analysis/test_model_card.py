import ast
import re
from pathlib import Path
from typing import Any

import pytest

from hemolens.analysis.model_card import write_model_card
from hemolens.errors import UserError

CARD: dict[str, Any] = {
    "task": "detection of blood cells",
    "net": {"architecture": "FCOS, ResNet-18", "parameters": "21,460,557"},
    "class_names": ("RBC", "WBC"),
    "data": {"data set": "BCCD | 263 images"},
    "results": "| class | AP |\n| --- | ---: |\n| RBC | 0.844 |",
    "checkpoint": "best.ckpt",
    "run": {"commit": "0123abc", "seed": 0, "device": "cpu"},
    "limits": ["Trained on one microscope."],
}


def test_sections_and_values(tmp_path: Path) -> None:
    write_model_card(tmp_path / "card.md", **CARD)
    text = (tmp_path / "card.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert sections[0] == "# Model card: best.ckpt, detection of blood cells\n\n"
    assert [section.splitlines()[0] for section in sections[1:]] == [
        "What it is",
        "Training data",
        "Measured results",
        "Limits",
        "Intended use",
        "How to use it",
        "Where it comes from",
    ]
    what, data, measured, limits, use, how, origin = sections[1:]
    assert "Classes: RBC, WBC." in what and "| parameters | 21,460,557 |" in what
    assert r"| data set | BCCD \| 263 images |" in data
    assert "| RBC | 0.844 |" in measured
    assert limits.splitlines()[2] == "- Trained on one microscope."
    assert "research only" in use and "not a medical device" in use
    assert "hemolens predict ckpt_path=best.ckpt input=" in how
    assert "| seed | 0 |" in origin and "| commit | 0123abc |" in origin


def test_python_example_is_valid(tmp_path: Path) -> None:
    write_model_card(tmp_path / "card.md", **CARD)
    (example,) = re.findall(r"```python\n(.*?)```", (tmp_path / "card.md").read_text(), flags=re.DOTALL)
    names = {node.attr for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Attribute)}
    assert names == {"load", "predict", "class_names"}


def test_existing_card_is_kept(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        write_model_card(tmp_path / "card.md", **CARD)
    assert (tmp_path / "card.md").read_text() == "mine"
    write_model_card(tmp_path / "card.md", **CARD, overwrite=True)
    assert (tmp_path / "card.md").read_text() != "mine"
