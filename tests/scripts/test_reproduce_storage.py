"""The command that repeats paper B: it survives a kill at any stage, and does nothing twice."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from hemolens.cli.app import compose_config

from ..conftest import REPOSITORY, load_module

# Stands for `hemolens` and `python`: what it writes is a digest of its words and of the files they name, so that a
# stage that ran on other inputs shows in all later ones. With deadly/ it kills the script in mid-work, once a stage.
STAND_IN = r"""#!/usr/bin/env bash
set -eu
here=$(dirname "$0")
verb=$1
[[ " $* " == *" --cfg "* ]] && { echo "config of $*"; [[ -f $here/setting ]] && cat "$here/setting"; exit 0; }
for word; do
    case $word in
        output=* | hydra.sweep.dir=* | hydra.run.dir=*) out=${word#*=} ;;
    esac
done
[[ $verb == *.py ]] && out=$3
case $verb in train) out=$out/one-hash ;; esac
echo "$*" >>"$here/calls"
[[ " $* " == *ssl\ seed=* ]] && set -- "$@" "$HEMOLENS_DATA/ablation/ssl.ckpt"
mkdir -p "$out"
touch "$out/begun"
once=$here/deadly/$(echo "$*" | md5sum | cut -c1-12)
if [[ -d $here/deadly && ! -e $once ]]; then touch "$once"; kill -9 $PPID; exit 1; fi
read_files() {
    for word in $(echo "$*" | tr "=,[]'" '     '); do [[ -f $word ]] && cat "$word"; done
    return 0
}
say() { mkdir -p "$(dirname "$out/$1")"; (read_files "$@"; printf '%s\n' "${@:2}") | md5sum >"$out/$1"; }
case $verb in
    simulate) say manifest.csv "$@" ;;
    reconstruct) say phase.tif "$@" ;;
    train) say checkpoints/best.ckpt "$@"; echo '{"state": "finished"}' >"$out/status.json" ;;
    generate) say selected/accept.csv "$@"; say augmented/pair.tif "$@" ;;
    *.py) say augmented/pair.tif "$@" ;;
    eval) say calibration.json "$@" ;;
    predict) say storage.json "$@" ;;
    report) say report.html "$@" ;;
esac
"""


class Script:
    """The script in a folder, with commands that take no time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = folder / "stand_in"
        self.command.write_text(STAND_IN)
        self.command.chmod(0o755)
        self.results = folder / "results"

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(REPOSITORY / "scripts" / "reproduce_storage.sh"), *words],
            env=os.environ | {"HEMOLENS": str(self.command), "PYTHON": str(self.command)} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self) -> list[str]:
        """What was run since the last call, in order."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def numbers(self) -> dict[str, str]:
        """Content of all results, by file."""
        kept = (path for path in self.results.rglob("*") if path.is_file() and ".attempt" not in str(path))
        left_out = ("begun", "reproduce.log", ".lock")
        return {str(path.relative_to(self.results)): path.read_text() for path in kept if path.name not in left_out}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_stages_in_order_and_once(script: Script) -> None:
    done = script.run("quick", str(script.results))
    assert done.returncode == 0, done.stdout + done.stderr
    calls = script.calls()
    verbs = [call.split()[0].rpartition("/")[2] for call in calls]
    trainings = 2 + 1 + 6 + 5  # of generators, without labels, arms, baselines
    assert verbs[:2] == ["simulate", "reconstruct"] and verbs[-3:] == ["eval", "predict", "report"]
    assert verbs.count("train") == trainings and len(calls) == trainings + 8
    assert (script.results / "report" / "report.html").is_file()
    assert f"[{len(calls)}/{len(calls)}] report" in done.stdout and "min left" in done.stdout
    assert done.stdout == (script.results / "reproduce.log").read_text()
    before = script.numbers()
    again = script.run("quick", str(script.results))
    assert again.returncode == 0 and script.calls() == []
    assert again.stdout.count("skipped, already complete") == len(calls)
    assert script.numbers() == before


def test_killed_at_every_stage_it_ends_with_the_same_numbers(script: Script, tmp_path: Path) -> None:
    assert script.run("quick", str(script.results)).returncode == 0
    whole, calls = script.numbers(), script.calls()
    shutil.rmtree(script.results)
    (tmp_path / "deadly").mkdir()
    for _ in calls:
        assert script.run("quick", str(script.results)).returncode != 0
    done = script.run("quick", str(script.results))
    assert done.returncode == 0, done.stdout + done.stderr
    assert script.numbers() == whole
    tried = script.calls()
    assert len(tried) == 2 * len(calls) and set(tried) == set(calls)  # each died once; nothing complete was repeated


def test_other_settings_set_aside_what_rests_on_them(script: Script, tmp_path: Path) -> None:
    chosen = {"ARMS": "plain da_ssl", "BASELINES": "unet"}
    assert script.run("quick", str(script.results), **chosen).returncode == 0
    first = script.calls()
    assert not any("rotated" in call for call in first)
    checkpoint = script.results / "ssl" / "one-hash" / "checkpoints" / "best.ckpt"
    checkpoint.write_text("pretrained anew")
    done = script.run("quick", str(script.results), **chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    again = script.calls()
    assert "arm=da_ssl" in again[0] and [call.split()[0] for call in again[1:]] == ["eval", "predict", "report"]
    assert (script.results / "ablation" / "da_ssl.attempt1").is_dir()
    (tmp_path / "setting").write_text("another default")
    assert script.run("quick", str(script.results), **chosen).returncode == 0
    assert len(script.calls()) == len(first)


@pytest.mark.parametrize("size", ["trial", "quick", "full"])
def test_the_commands_are_taken(script: Script, size: str) -> None:
    """What stands for them takes anything: each is composed, or parsed, as the real one would."""
    done = script.run(size, str(script.results))
    assert done.returncode == 0, done.stdout + done.stderr
    experiments, seen = set(), set()
    for call in script.calls():
        verb, *words = shlex.split(call)
        words = [word.replace("'", "") for word in words if word != "-m" and not word.startswith("hydra.")]
        if verb.endswith("make_control_pairs.py"):
            verb, words = "train", control_pairs().parsed(words).overrides
        recipe = next((word for word in words if word.startswith("experiment=")), "")
        experiments.add(recipe)
        if (verb, recipe) in seen:  # another arm of the same experiment
            continue
        seen.add((verb, recipe))
        compose_config(verb, [re.sub(r"^(seed=[0-9]+),.*", r"\1", word) for word in words])
    assert len(experiments - {""}) == 9


def control_pairs() -> ModuleType:
    return load_module(REPOSITORY / "scripts" / "make_control_pairs.py")


def test_a_stage_that_fails_stops_it_and_is_repeated(script: Script) -> None:
    script.command.write_text(STAND_IN.replace("predict) say", "predict) [[ -e $here/works ]] || exit 3; say"))
    stopped = script.run("quick", str(script.results))
    assert stopped.returncode == 3
    assert "the same command goes on from here" in stopped.stdout.splitlines()[-1]
    script.calls()
    (script.folder / "works").touch()
    assert script.run("quick", str(script.results)).returncode == 0
    assert [call.split()[0] for call in script.calls()] == ["predict", "report"]


def test_usage_and_missing_command(script: Script) -> None:
    asked = script.run("--help")
    assert asked.returncode == 0 and "quick" in asked.stdout and "SEEDS" in asked.stdout
    assert script.run("fast").returncode == 2
    missing = script.run("quick", str(script.results), HEMOLENS="no-such-command")
    assert missing.returncode == 2 and "activate the environment" in missing.stderr
    assert not script.results.exists()
