"""The command as a user runs it, in a folder of its own, on a tiny data set.

Fast tests call it in their own process, since its imports take longer than most of what they test; slow ones start it.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

# A whole detector in miniature: trains a step in a fraction of a second.
TINY = [
    "net.backbone.out_indices=[1,2,3,4]",
    "net.neck.out_channels=16",
    "net.head.feat_channels=16",
    "net.head.norm_groups=4",
    "net.head.stacked_convs=1",
]

# Tomograms in a few seconds.
SMALL_SIMULATION = [
    "data.n_samples=3",
    "data.fields_per_sample=1",
    "data.field_px=[96,128]",
    "data.placement.density_per_mm2=12000",
    "data.tomography.slices=12",
    "data.tomography.margin_slices=4",
    "data.test_floor=null",
    "workers=1",
]

Run = Callable[..., subprocess.CompletedProcess[str]]


# What the command gets beside its caller's environment, from which anything of these names is left out.
OWN = ("WANDB", "HEMOLENS", "PL_")
SETTINGS = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONWARNINGS": "ignore"}


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(OWN)} | SETTINGS | more


def run_command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``hemolens`` in a process of its own."""
    command = [sys.executable, "-m", "hemolens.cli.main", *words]
    return subprocess.run(command, cwd=cwd, env=_environment(environment), capture_output=True, text=True, timeout=600)


def call_command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``hemolens`` in this process, which is left as it was."""
    from hemolens.cli.main import main

    out, err = StringIO(), StringIO()
    with _as_it_was(), chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        kept = _environment(environment)
        os.environ.clear()
        os.environ.update(kept)
        warnings.simplefilter("ignore")
        try:
            code = main(words)
        except SystemExit as stop:  # of argparse
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


@contextmanager
def _as_it_was() -> Iterator[None]:
    import logging

    import torch
    from hydra.core.global_hydra import GlobalHydra

    environment, arguments = dict(os.environ), list(sys.argv)
    precision, interrupt = torch.get_float32_matmul_precision(), signal.getsignal(signal.SIGINT)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = arguments
        torch.set_float32_matmul_precision(precision)
        signal.signal(signal.SIGINT, interrupt)
        root.setLevel(level)
        root.handlers[:] = handlers
        GlobalHydra.instance().clear()


@pytest.fixture
def hemolens(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """``hemolens(verb, *words)`` run in ``tmp_path``; a slow test starts a process for it."""
    command = run_command if request.node.get_closest_marker("slow") else call_command

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return command(*words, cwd=tmp_path, **environment)

    return run


def training_words(root: Path, *more: str) -> list[str]:
    """Arguments of a two-epoch training on a tiny VOC folder."""
    return [
        "experiment=det_fcos_r18_pafpn_bccd",
        f"data.root={root}",
        "data.image_size=[96,128]",
        "data.batch_size=2",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
        *TINY,
        *more,
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, voc_folder_made_once: Path) -> Path:
    """The run folder of one finished training; for reading only."""
    folder = tmp_path_factory.mktemp("trained")
    run_dir = folder / "run"
    done = call_command("train", *training_words(voc_folder_made_once, f"hydra.run.dir={run_dir}"), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


def read_wandb(offline_run: Path) -> list[dict[str, Any]]:
    """Every record of an offline run, through W&B's own reader."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(offline_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(content: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in content if record["type"] == kind]
