"""`hemolens collect` of a sweep of a hundred jobs, tables and page, beside a plain reading of the same files.

The peer reads what the tables and the page are made of the usual way (yaml.safe_load, json, pandas, Pillow) and makes
nothing of it; no other tool makes such a page of such folders, so no ratio is asked for. Seconds are what counts: ours
should stay below ten.
"""

import atexit
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image, ImageDraw

from benchmarks.harness import Comparison, Options, Side
from hemolens.cli.collect import main

METRICS = ("train/loss", "train/cross_entropy", "train/dice", "train/images_per_second", "lr-AdamW/pg1", "lr-AdamW/pg2")
KEYS = 160  # of a resolved config
# Of a run's figures, by name; sizes in pixels and bytes are near those of a segmentation.
SIZES_PX = {"overlays": (780, 1200), "confusion": (960, 915), "scores": (1050, 570), "curves": (640, 480)}


def comparisons(options: Options) -> Iterator[Comparison]:
    """A hundred runs with 2,000 rows of history and four figures each."""
    runs, rows = (4, 200) if options.quick else (100, 2000)
    folder = Path(tempfile.mkdtemp(prefix="collect-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made_up(folder / "sweep", runs, rows)

    def ours() -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([str(folder / "sweep"), "--output", str(folder), "--overwrite"]) == 0
        page = (folder / "runs.html").read_text()
        return page.count("data:image/webp")

    def peer() -> int:
        pictures = 0
        for run in sorted((folder / "sweep").iterdir()):
            yaml.safe_load((run / "config_resolved.yaml").read_text())
            for name in ("status.json", "metrics.json", "git.json"):
                json.loads((run / name).read_text())
            pd.read_csv(run / "metrics.csv")
            for path in sorted((run / "figures").glob("*.png")):
                with Image.open(path) as picture:
                    picture.convert("RGB").resize((480, 480 * picture.height // picture.width))
                pictures += 1
        return pictures

    yield Comparison(
        "tables and page",
        Side("hemolens collect", {"page": "480 px WebP, 500 points a curve, configs, tables"}, ours),
        Side(
            "plain reading", {"yaml": "safe_load", "history": "pandas", "figures": "Pillow, shrunk, not encoded"}, peer
        ),
        same_pictures,
        "as many pictures",
        most_pairs=3,
        work={"runs": runs, "rows of history": rows, "figures": runs * len(SIZES_PX), "config keys": KEYS},
    )


def made_up(folder: Path, runs: int, rows: int) -> None:
    """Run folders of a sweep over rate and seed as training leaves them."""
    rng = np.random.default_rng(0)
    shared = {f"group{k // 10}": {f"key{j}": k * j for j in range(10)} for k in range(0, KEYS, 10)}
    figures = {name: _figure(size, rng, smooth=name != "overlays") for name, size in SIZES_PX.items()}
    for number in range(runs):
        run = folder / f"run{number:03d}"
        (run / "figures").mkdir(parents=True)
        lr, seed = 10.0 ** (-4 + number // 5 / 10), number % 5
        config = {"seed": seed, "optimizer": {"lr": lr}, "monitor": {"metric": "val/dice", "mode": "max"}, **shared}
        (run / "config_resolved.yaml").write_text(yaml.safe_dump(config))
        status = {"state": "finished", "job": "train", "command": "hemolens train -m optimizer.lr=1e-4 seed=0,1"}
        (run / "status.json").write_text(json.dumps(status))
        (run / "metrics.json").write_text(json.dumps({f"test/score{k}": rng.uniform() for k in range(40)}))
        (run / "git.json").write_text(json.dumps({"commit": "0" * 40, "dirty": False}))
        table = pd.DataFrame({"step": np.arange(rows), "epoch": np.arange(rows) // 100})
        for name in METRICS:
            table[name] = 1 / (1 + 0.01 * table.step) + rng.normal(0, 0.02, rows)
        table["val/dice"] = np.where(table.step % 100 == 99, rng.uniform(size=rows), np.nan)
        table.to_csv(run / "metrics.csv", index=False)
        for name, content in figures.items():
            (run / "figures" / f"test_{name}.png").write_bytes(content)


def _figure(size: tuple[int, int], rng: np.random.Generator, *, smooth: bool) -> bytes:
    """Round marks with numbers, on white as in a chart, or on an uneven ground as in an image with its cells."""
    ground = Image.new("L", size, 255) if smooth else Image.effect_noise((size[0] // 8, size[1] // 8), 20).resize(size)
    picture = ground.convert("RGBA")
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform(0, 1, size=(60, 2)) * (size[0] - 40, size[1] - 40):
        draw.ellipse((x, y, x + 40, y + 40), fill=tuple(rng.integers(0, 255, 3).tolist()), outline="black")
        draw.text((x, y), f"{x:.2f}", fill="gray")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def same_pictures(ours: int, peer: int) -> dict[str, float]:
    """That the page holds each picture."""
    assert ours == peer, f"{ours} pictures in the page, {peer} in the folders"
    return {"pictures": ours}
