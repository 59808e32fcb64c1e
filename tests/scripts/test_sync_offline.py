"""Offline runs are found wherever they lie, uploaded in order and once, and what is wrong is told."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sync_offline.sh"

# Stands for `wandb`: keeps what it was told, marks as W&B does; with ./logged_out it refuses, with ./bad one run fails.
FAKE = r"""#!/usr/bin/env bash
here=$(dirname "$0")
run=${!#}
echo "$*" >>"$here/calls"
[[ -e $here/logged_out ]] && { echo 'Error: No API key configured. Use `wandb login` to log in.' >&2; exit 1; }
[[ -e $here/bad && $run == *"$(cat "$here/bad")"* ]] && { echo "broken file" >&2; exit 1; }
file=$(ls "$run"/*.wandb)
touch "$file.synced"
"""


class Place:
    def __init__(self, folder: Path) -> None:
        self.bin, self.outputs = folder / "bin", folder / "out puts"
        self.bin.mkdir()
        (self.bin / "wandb").write_text(FAKE)
        (self.bin / "wandb").chmod(0o755)

    def run(self, job: str, when: str, name: str, state: str = "finished") -> Path:
        folder = self.outputs / job / "wandb" / f"offline-run-{when}-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name}.wandb").write_bytes(b"x")
        (self.outputs / job / "status.json").write_text(f'{{\n  "state": "{state}"\n}}\n')
        return folder

    def sync(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        given = words or (str(self.outputs),)
        return subprocess.run([str(SCRIPT), *given], env=os.environ | {"PATH": path}, capture_output=True, text=True)

    def calls(self) -> list[str]:
        file = self.bin / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.run("sweep/b", "20260102_120000", "bbbb")
    made.run("sweep/a", "20260101_120000", "aaaa")
    made.run("sweep/a", "20260103_120000", "aaaa")  # resumed: the same run again
    made.run("sweep/c", "20260104_120000", "cccc", "running")
    made.run("sweep/b.attempt1", "20260101_110000", "dddd")
    return made


def test_each_run_is_uploaded_once_oldest_first(place: Place) -> None:
    done = place.sync()
    assert done.returncode == 0, done.stderr
    assert "4 offline runs" in done.stdout and "3 to upload" in done.stdout and "still running" in done.stdout
    names = ["20260101_120000-aaaa", "20260102_120000-bbbb", "20260103_120000-aaaa"]
    assert [call.rpartition("offline-run-")[2] for call in place.calls()] == names
    assert all(call.startswith("sync --yes /") for call in place.calls())
    again = place.sync()
    assert again.returncode == 0 and "3 uploaded before" in again.stdout and len(place.calls()) == 3


def test_a_run_that_was_killed_here_is_uploaded_and_one_that_runs_is_not(place: Place) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name, pid, host in (
        ("dead", ended.pid, socket.gethostname()),
        ("here", os.getpid(), socket.gethostname()),
        ("away", ended.pid, "elsewhere"),
    ):
        job = place.run(f"other/{name}", "20260105_120000", name).parents[1]
        (job / "status.json").write_text(json.dumps({"state": "running", "host": host, "pid": pid, "x": 1}, indent=2))
    done = place.sync(str(place.outputs / "other"))
    assert done.returncode == 0 and "2 running, 1 to upload" in done.stdout
    assert [call.rpartition("-")[2] for call in place.calls()] == ["dead"]


def test_a_dry_run_only_lists(place: Place) -> None:
    done = place.sync("--dry-run", str(place.outputs / "sweep" / "a"))
    assert done.returncode == 0 and place.calls() == []
    assert [line.rpartition("-")[2] for line in done.stdout.splitlines()[1:]] == ["aaaa", "aaaa"]


def test_without_a_login_it_stops_at_once(place: Place) -> None:
    (place.bin / "logged_out").touch()
    done = place.sync()
    assert done.returncode == 1 and "wandb login" in done.stderr and len(place.calls()) == 1


def test_one_broken_run_does_not_keep_the_others(place: Place) -> None:
    (place.bin / "bad").write_text("bbbb")
    done = place.sync()
    assert done.returncode == 1 and "1 of 3 were not uploaded" in done.stderr and len(place.calls()) == 3
    (place.bin / "bad").unlink()
    assert place.sync().returncode == 0 and len(place.calls()) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [(["nowhere"], "no folder nowhere"), (["--what"], "sync_offline.sh [--dry-run]"), (["a", "b"], "not also b")],
)
def test_wrong_words_are_told(place: Place, words: list[str], told: str) -> None:
    done = place.sync(*words)
    assert done.returncode == 2 and told in done.stderr


def test_nothing_found_and_help(place: Place, tmp_path: Path) -> None:
    none = place.sync(str(place.bin))
    assert none.returncode == 2 and "logger=wandb_offline" in none.stderr
    assert "wandb login" in place.sync("--help").stdout
