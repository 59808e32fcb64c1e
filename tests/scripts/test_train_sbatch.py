"""scripts/train.sbatch with stand-ins for SLURM's commands: what srun is given, and when the job is queued again."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from hemolens.callbacks.run_status import REQUEUE_EXIT_CODE

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.sbatch"


def run_script(folder: Path, srun_code: int) -> tuple[int, str, str]:
    """Exit code, the words that srun got, those that scontrol got."""
    for name, code in (("srun", srun_code), ("scontrol", 0)):
        command = folder / name
        command.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/{name}.said\nexit {code}\n')
        command.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "long run"}
    done = subprocess.run(["bash", str(SCRIPT), "experiment=demo", "seed=1"], env=environment, capture_output=True)
    said = [(folder / f"{name}.said") for name in ("srun", "scontrol")]
    srun, scontrol = (path.read_text() if path.exists() else "" for path in said)
    return done.returncode, srun, scontrol


def test_the_script_is_sound_and_asks_for_a_signal_and_a_requeue() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), flags=re.MULTILINE))
    assert options["signal"] == "USR1@300" and "requeue" in options and options["open-mode"] == "append"
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time"} <= set(options)
    assert len(options) == SCRIPT.read_text().count("#SBATCH ")  # SLURM takes a comment on such a line as an option


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (REQUEUE_EXIT_CODE, True), (138, True), (1, False), (2, False)]
)
def test_it_is_queued_again_where_the_time_was_up_and_else_tells_how_it_ended(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    status, srun, scontrol = run_script(tmp_path, code)
    assert status == (0 if requeued else code)
    assert scontrol == ("requeue\n42\n" if requeued else "")
    words = srun.splitlines()
    assert words[:3] == ["--kill-on-bad-exit=1", "hemolens", "train"]
    assert words[3:] == [
        "trainer=slurm",
        "resume=true",
        "hydra.run.dir=outputs/slurm/long run-42",
        "experiment=demo",
        "seed=1",
    ]
