"""What the command says before anything runs: help, and one line with the remedy for every slip."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run, training_words


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("hemolens:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_verbs_without_torch(words: list[str]) -> None:
    code = (
        "import sys; from hemolens.cli.main import main; code = main(sys.argv[1:]); "
        "print('HEAVY', {'torch', 'lightning', 'hydra', 'numpy', 'wandb'} & set(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("simulate", "train", "eval", "predict", "collect"))
    assert "HEAVY set()" in done.stdout


def test_train_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hemolens.cli.main import main; main(['train', '--help']); "
        "print('HEAVY', {'torch', 'lightning', 'numpy', 'wandb', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY set()" in done.stdout, done.stderr


def test_train_help_lists_config_groups_and_examples(hemolens: Run) -> None:
    done = hemolens("train", "--help")
    assert done.returncode == 0
    for word in ("net: ", "fcos_r18_pafpn", "experiment: ", "det_fcos_r18_pafpn_bccd", "hemolens train"):
        assert word in done.stdout, word


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "did you mean train"),
        (["train", "net=fcos_r18"], "fcos_r18_pafpn"),
        (["train", "optimizer.lrr=1e-3"], "optimizer.lr"),
        (["train", "trainer.max_epoch=1"], "trainer.max_epochs"),
        (["train", "optimiser=sgd"], "optimizer"),
        (["train", "experiment=det_fcos_bccd"], "det_fcos_r18_pafpn_bccd"),
        (["predict", "input=x"], "ckpt_path"),
        (["eval", "ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["predict", "ckpt_path=nowhere.ckpt", "input=."], "nowhere.ckpt"),
        (["collect", "nowhere"], "nowhere"),
        (["new-experimnt"], "new-experiment"),
    ],
)
def test_a_slip_gives_one_line_with_the_remedy(hemolens: Run, words: list[str], expected: str) -> None:
    done = hemolens(*words)
    assert done.returncode == 2, done.stderr
    assert expected in one_line(done)


def test_a_missing_data_folder_is_named(hemolens: Run) -> None:
    done = hemolens("train", "experiment=det_fcos_r18_pafpn_bccd", "data.root=not_here")
    assert done.returncode == 2
    assert "not_here" in one_line(done)


def test_an_existing_output_folder_is_left_alone(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("keep me")
    done = hemolens("train", *training_words(voc_folder, f"hydra.run.dir={target}"))
    assert done.returncode == 2
    assert str(target) in one_line(done)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]


def test_a_corrupt_image_ends_the_run_and_names_the_file(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    victim = sorted((voc_folder / "JPEGImages").glob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    done = hemolens("train", *training_words(voc_folder, f"hydra.run.dir={tmp_path / 'run'}"))
    assert done.returncode in (1, 2)
    assert victim.name in one_line(done)


def test_an_unknown_label_is_refused_and_named(hemolens: Run, voc_folder: Path, tmp_path: Path) -> None:
    victim = sorted((voc_folder / "Annotations").glob("*.xml"))[0]
    victim.write_text(victim.read_text().replace("RBC", "Martian"))
    done = hemolens("train", *training_words(voc_folder, f"hydra.run.dir={tmp_path / 'run'}"))
    assert done.returncode == 2
    assert "Martian" in one_line(done)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_images(
    hemolens: Run, voc_folder: Path, tmp_path: Path
) -> None:
    words = training_words(
        voc_folder, f"hydra.run.dir={tmp_path / 'run'}", "optimizer.lr=1e30", "scheduler.warmup_steps=0"
    )
    done = hemolens("train", *words, "trainer.gradient_clip_val=null", "trainer.max_epochs=20")
    assert done.returncode == 1
    assert "smear_" in one_line(done)
