"""Experiment files made from others: comments stay, overrides stand in them, and they are checked."""

from pathlib import Path

import pytest
import yaml

from hemolens.cli.main import main
from hemolens.cli.yaml_edit import set_default, set_value
from hemolens.errors import UserError

TEXT = """\
# about
defaults:
  - base
  - override /net: a # why a
  - _self_

seed: 1
data:
  size: [1, 2] # height, width
  inner: { x: 1, y: 2 } # both
trainer:
  max_epochs: 3
"""


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", 4, "seed: 4 # was 1"),
        ("data.size", [3, 4], "  size: [3, 4] # was [1, 2]; height, width"),
        ("data.inner.y", 5, "  inner: {x: 1, y: 5} # new; both"),
        ("data.more", None, "  more: null # new"),
        ("data.deep.er", "a: b", "    er: 'a: b' # new"),
        ("model.loss", 0.001, "  loss: 0.001 # new"),
        ("trainer.max_epochs", "${seed}", "  max_epochs: ${seed} # was 3"),
    ],
)
def test_one_value_changes_and_all_else_stays(key: str, value: object, line: str) -> None:
    changed = set_value(TEXT, key, value, "new")
    assert line in changed.splitlines()
    wanted = yaml.safe_load(TEXT)
    *parents, last = key.split(".")
    node = wanted
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    assert yaml.safe_load(changed) == wanted
    assert "# about" in changed and "# why a" in changed


def test_a_block_of_keys_is_not_one_value() -> None:
    with pytest.raises(UserError, match="give them one by one"):
        set_value(TEXT, "data", 3, "new")


def test_groups_are_chosen_in_the_defaults() -> None:
    assert "  - override /net: b # was a; why a\n" in set_default(TEXT, "net", "b", "given")
    added = yaml.safe_load(set_default(TEXT, "data", "d", "given"))["defaults"]
    assert added == ["base", {"override /net": "a"}, {"override /data": "d"}, "_self_"]
    assert yaml.safe_load(set_default("# x\nseed: 1\n", "data", "d", "given"))["defaults"] == [{"override /data": "d"}]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_written_with_its_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new-experiment", "det_mine", "--from", "det_fcos_r18_pafpn_bccd", "net=fcos_r50_fpn"]
    words += ["trainer.max_epochs=30", "net.backbone.drop_path_rate=0.1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.endswith("  hemolens train --config-dir my_configs experiment=det_mine\n")
    text = (here / "my_configs" / "experiment" / "det_mine.yaml").read_text()
    assert text.startswith("# @package _global_\n# Made from experiment=det_fcos_r18_pafpn_bccd of hemolens ")
    for line in (
        "  - override /net: fcos_r50_fpn # was fcos_r18_pafpn",
        "task_name: det_mine # was det_fcos_r18_pafpn_bccd",
        "  max_epochs: 30 # was 19",
        "  batch_size: 2",
        "    decay: 0.995 # 200 steps",
    ):
        assert line in text.splitlines()
    assert main(words) == 2  # there already
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["det_a", "--from", "det_fcos_r18_bccd"], "did you mean det_fcos_r18_pafpn_bccd"),
        (["det_a", "--from", "zzz"], "`--list` lists what there is"),
        (["det_a", "--from", "demo", "net=fcos_r18"], "did you mean fcos_r18_pafpn"),
        (["det_a", "--from", "demo", "optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["det_a", "--from", "demo", "model=segmentation"], "a SegmentationTask cannot take"),
        (["det_a", "--from", "demo", "seed=0,1"], "a file holds one value a key"),
        (["demo", "--from", "demo"], "comes with hemolens"),
        (["a-b", "--from", "demo"], "no name for an experiment"),
        (["det_a"], "--from EXPERIMENT"),
    ],
)
def test_slips_write_nothing(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    assert main(["new-experiment", *words]) == 2
    assert line in capsys.readouterr().err
    assert not list(here.rglob("*.yaml"))


def test_a_folder_that_cannot_be_made_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    assert main(["new-experiment", "det_a", "--from", "demo", "--output-dir", "file/configs"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hemolens: ") and "file" in error and len(error.splitlines()) == 1


def test_the_list_has_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-experiment", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("demo ") and "make demo" in line for line in lines)
