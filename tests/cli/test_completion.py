"""Completion, as bash itself asks for it, and without anything slow."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hemolens.cli.completion import SCRIPTS, candidates
from hemolens.cli.main import VERBS


def test_verbs() -> None:
    assert candidates("hemolens ") == list(VERBS)
    assert candidates("hemolens tr") == ["train"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hemolens train exp", ["experiment="]),
        ("hemolens train experiment=det_fcos_r18_pafpn_b", ["experiment=det_fcos_r18_pafpn_bccd"]),
        ("hemolens train -m net=fcos_r18_pafpn,fcos_sw", ["net=fcos_r18_pafpn,fcos_swin_t_fpn"]),
        ("hemolens train mod", ["model.", "model="]),
        ("hemolens train model.nms", ["model.nms_iou="]),
        ("hemolens train experiment=gan_mask_simholo_quick model.r1_g", ["model.r1_gamma="]),
        ("hemolens train optimizer=sgd ++optimizer.mom", ["++optimizer.momentum="]),
        ("hemolens train trainer=ddp trainer.sync", ["trainer.sync_batchnorm="]),
        ("hemolens predict hematology.rii", ["hematology.rii="]),
        ("hemolens predict tile_o", ["tile_overlap_px="]),
        ("hemolens train --config", ["--config-dir"]),
        ("hemolens new-experiment mine --from finetune", ["finetune_corrected"]),
        ("hemolens completion z", ["zsh"]),
        ("hemolens nonsense ", []),
    ],
)
def test_groups_choices_and_keys(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").touch()
    assert candidates(f"hemolens train --config-dir {tmp_path} experiment=mi") == ["experiment=mine"]


def test_asking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hemolens.cli.main import main; "
        "main(['completion', '--query', 'hemolens train net=fcos_r5']); "
        "print('HEAVY', {'torch', 'lightning', 'hydra', 'omegaconf', 'numpy', 'wandb', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["net=fcos_r50_fpn", "HEAVY set()"]


def complete_in_bash(folder: Path, line: str) -> list[str]:
    """What bash offers for a line whose cursor is at its end; its words are cut at "=", as readline cuts them."""
    command = folder / "hemolens"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hemolens.cli.main "$@"\n')
    command.chmod(0o755)
    script = (
        f'PATH="{folder}:$PATH"; eval "$(hemolens completion bash)"; complete -p hemolens > /dev/null || exit 1\n'
        f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; read -ra COMP_WORDS <<< "${{COMP_LINE//=/ = }}"\n'
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _hemolens; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_what_readline_leaves_of_a_word(tmp_path: Path) -> None:
    assert complete_in_bash(tmp_path, "hemolens predi") == ["predict"]
    assert complete_in_bash(tmp_path, "hemolens train experiment=dem") == ["demo"]
    assert complete_in_bash(tmp_path, "hemolens train model.nms") == ["model.nms_iou="]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_shells_take_their_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    subprocess.run([shell, "-n"], input=SCRIPTS[shell], text=True, check=True)
