"""What the figures were measured on, and whether anything else was running there."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

ROOT = Path(__file__).resolve().parents[1]
# What decides which convolution and matrix kernels a CPU gets.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
BUSY_SHARE = 0.1  # of one core: what another process may use on a machine that still counts as quiet
BUSY_LOAD = 0.3  # a core, in the load average of the last minute


def facts() -> dict[str, Any]:
    """CPU, versions and commit; no host name and no paths."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    lines = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": {flag: flag in flags for flag in FLAGS},
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "commit": commit(),
    }


def commit() -> str:
    """Short hash of the commit, with "+changes" if more than results/ differs from it; "unknown" outside git."""
    try:
        revision = _git("rev-parse", "--short", "HEAD")
        return revision + ("+changes" if _git("status", "--porcelain", "--", ".", ":!results") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def activity(seconds: float) -> dict[str, Any]:
    """What else runs: load average, and other processes that use more than a tenth of a core while we wait.

    Processes outside of a container are invisible from inside; the load average still shows them.
    """
    before = _cpu_ticks()
    time.sleep(seconds)
    after = _cpu_ticks()
    ticks = os.sysconf("SC_CLK_TCK") * seconds
    busy = {
        name: round((used - before[pid, name]) / ticks, 2)
        for (pid, name), used in after.items()
        if pid != os.getpid() and (used - before.get((pid, name), used)) / ticks > BUSY_SHARE
    }
    load = os.getloadavg()[0]
    return {
        "load_average": round(load, 2),
        "busy_processes": busy,
        "quiet": not busy and load < BUSY_LOAD * (os.cpu_count() or 1) + _own_load(),
    }


def _own_load() -> float:
    """At most what this process itself, so the tasks before, can have added to the load average."""
    return min(torch.get_num_threads(), time.process_time() / 60)


def _cpu_ticks() -> dict[tuple[int, str], int]:
    """User and system time of each visible process by (pid, name), in clock ticks; empty without /proc."""
    ticks = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        text = _read(stat)
        if ")" in text:  # the name stands in brackets and may itself hold blanks and brackets
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            ticks[int(stat.parent.name), name] = int(rest[11]) + int(rest[12])
    return ticks


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, or the process has ended
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
