"""``hemolens train`` with a training that takes no time, run as a script: sweeps and launchers are the real ones.

Its score depends on the learning rate alone and is best at 1e-3; 0.5 fails. Its status counts epochs as a training's
does. ``calls.txt`` in the working folder says what ran: seed, rate, epoch it began with, process. ``strike`` there, of
the form "call signal", strikes the process of that call once, after its first epoch; SIGKILL strikes its whole group.
"""

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.cli.run_guard import guarded_run
from hemolens.cli.sweep_summary import print_sweep_summary
from hemolens.io.run_folder import read_status, update_status


def strike(call: int) -> None:
    file = Path("strike")
    if not file.exists():
        return
    when, number = map(int, file.read_text().split())
    if call != when:
        return
    file.unlink()
    if number == signal.SIGKILL:
        os.killpg(os.getpgid(0), number)
    os.kill(os.getpid(), number)
    time.sleep(5)


def body(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    rate, epochs = cfg.optimizer.lr, cfg.trainer.max_epochs
    begin = read_status(run_dir).get("last_epoch", 0) if cfg.ckpt_path else 0
    with Path("calls.txt").open("a+") as file:
        file.write(f"{cfg.seed} {rate} {begin} {os.getpid()}\n")
        file.seek(0)
        call = len(file.readlines())
    if rate == 0.5:
        raise ValueError("too fast")
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    for epoch in range(begin + 1, epochs + 1):
        for name in ("best.ckpt", "last.ckpt"):
            (checkpoints / name).touch()
        best = {"best_checkpoint": "checkpoints/best.ckpt", "stopped_early": False}
        update_status(run_dir, last_epoch=epoch, max_epochs=epochs, **best)
        strike(call)
    return {"val/map": 1 / (1 + abs(math.log10(rate) + 3))}


def job(cfg: DictConfig) -> float | None:
    return guarded_run(cfg, "train", body)


if __name__ == "__main__":
    sys.exit(print_sweep_summary(run_verb("train", sys.argv[1:], job)))
