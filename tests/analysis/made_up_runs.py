"""Run folders of a small sweep as training leaves them, made up in a moment."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

MARKUP = "<img src=x onerror=alert(1)></td></script><script>alert(2)</script>"


def write_run(
    folder: Path,
    *,
    lr: float,
    seed: int,
    state: str = "finished",
    error: str | None = None,
    rows: int = 60,
    pictures: bool = True,
    net: str = "unet",
    **more: Any,
) -> Path:
    """A run whose score grows with lr; ``more`` are config keys."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, int(1e4 * lr)])
    config: dict[str, Any] = {
        "paths": {"run_dir": str(folder)},
        "seed": seed,
        "data": {"seed": seed, "batch_size": 4},
        "optimizer": {"lr": lr, "weight_decay": 0.01},
        "net": {"_target_": f"hemolens.nets.{net}", "name": net},
        "monitor": {"metric": "val/dice", "mode": "max"},
        **more,
    }
    (folder / "config_resolved.yaml").write_text(yaml.safe_dump(config))
    (folder / "git.json").write_text(json.dumps({"commit": f"{seed}" * 40, "dirty": False}))
    status = {
        "state": state,
        "job": "train",
        "command": f"bin/hemolens train -m net={net} optimizer.lr=0.001,0.002 seed=0,1",
        "error": error,
        "last_epoch": 3,
        "wall_seconds": 3725.0 + seed,
        "cpu_seconds": 40.0,
        "started": "2025-01-02T03:04:05+0000",
        "device": "2 cores",
    }
    (folder / "status.json").write_text(json.dumps(status))
    loss = 1 / (1 + 100 * lr * np.arange(rows)) + 0.01 * rng.uniform(size=rows)
    lines = ["step,epoch,train/loss,val/dice"]
    for step, value in enumerate(loss.tolist()):
        lines.append(f"{step},{3 * step // rows},{value},")
        if (step + 1) % (rows // 3) == 0:
            lines.append(f"{step},{3 * step // rows},,{1 - value}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if state != "finished":
        return folder
    score = 0.5 + 100 * lr + 0.01 * seed
    metrics = {"val/dice": score - 0.1, "test/dice": score, "val/loss": 1 - score, "parameters": 1_234_567}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if pictures:
        (folder / "figures").mkdir()
        for name, size in (("test_overlays", (1200, 800)), ("reliability", (500, 400))):
            picture = Image.new("RGBA", size, "white")
            ImageDraw.Draw(picture).ellipse((100, 100, 300, 300), fill=(200, int(40e3 * lr), 40))
            picture.save(folder / "figures" / f"{name}.png")
    return folder


def write_sweep(folder: Path) -> Path:
    """Two rates by two seeds, a failed run with markup in its name and error, one that was stopped, one that runs."""
    for lr in (1e-3, 2e-3):
        for seed in (0, 1):
            write_run(folder / f"lr={lr},seed={seed}", lr=lr, seed=seed)
    # a folder's name cannot hold "/"
    write_run(folder / MARKUP.replace("/", "-"), lr=5e-3, seed=0, state="failed", error=f"UserError: {MARKUP}")
    write_run(folder / "stopped", lr=2e-3, seed=2, state="interrupted", rows=30)
    write_run(folder / "running", lr=2e-3, seed=3, state="running", rows=30, arm_name=MARKUP)
    return folder
