"""Many runs side by side as one HTML page that needs nothing else: table, scatter, curves, configs and pictures.

The page's own program and styles lie in ``runs_page/``; here is what they are given.
"""

import base64
import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from numpy.typing import NDArray

from hemolens.analysis.run_folders import RunFolder
from hemolens.analysis.run_history import History, read_history
from hemolens.analysis.run_pictures import Embedded, embed_pictures
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path

PROGRAM = ("core", "table", "plot", "scatter", "curves", "diff", "images", "main")  # in this order
# Where less is better, if the runs themselves do not say: whole words of a metric's name, and words that speak against
LESS_IS_BETTER = {
    *("loss", "error", "mae", "rmse", "mse", "fid", "kid", "seconds", "over", "missed", "spurious", "rate"),
    *("entropy", "l1", "contrastive", "reconstruction"),  # losses by their own names
    *("histogram", "spectrum", "area", "phase", "frechet", "covered", "kernel"),  # distances of generated images
}
MORE_IS_BETTER = {"per", "accuracy"}
NAME_KEYS, LABEL_LETTERS = 4, 60  # of the config in a run's label


@dataclass(frozen=True)
class PageOptions:
    """What a user may choose of the page.

    Args:
        title: of the page; None: the folders' names.
        images: of a run's figures all, those of the test (``test_*.png``), or none.
        images_mb: megabytes of pictures at most.
        image_px: of wider pictures; None: by their number, 480 to 960.
        metrics: further columns of the table as it first shows, the foremost first.
        command: that makes the page, told at its head.
        quiet: no progress bar.
    """

    title: str | None = None
    images: str = "all"
    images_mb: float = 24.0
    image_px: int | None = None
    metrics: Sequence[str] = ()
    command: str = ""
    quiet: bool = False


def write_run_page(path: Path, runs: Sequence[RunFolder], options: PageOptions, *, overwrite: bool = False) -> None:
    """Write the page.

    It loads nothing from anywhere: figures, histories and configs are inside, and its content security policy names
    the hash of its program, so that no text of a run can become one.

    Args:
        path: of the page, e.g. ``<sweep>/runs.html``.
        runs: at least one.
        options: see :class:`PageOptions`.
        overwrite: replace an earlier page.

    Raises:
        UserError: the page exists, or a file of a run cannot be read.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: add --overwrite or choose another --output")
    found = [_figures(run.folder, options.images) for run in runs]
    with ThreadPoolExecutor(1) as reader:  # beside the pictures, which leave Python's lock free
        reading = reader.submit(lambda: [read_history(run.folder / "metrics.csv") for run in runs])
        small = embed_pictures(found, most_mb=options.images_mb, width_px=options.image_px, quiet=options.quiet)
        histories = reading.result()
    title = options.title or f"Runs of {_places(runs)[0].name}"
    data = page_data(runs, histories, small, page_folder=path.parent, metrics=options.metrics)
    note = _left_out_words(small, options)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(render(title, data, command=options.command, note=note), encoding="utf-8")


def render(title: str, data: Mapping[str, Any], *, command: str, note: str = "") -> str:
    """The page as HTML; see :func:`page_data` for the data."""
    folder = files("hemolens.analysis") / "runs_page"
    parts = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in PROGRAM)
    program = f'(() => {{\n"use strict";\n{parts}\n}})();\n'
    style = (folder / "style.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("hemolens.analysis", "runs_page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        count=len(data["runs"]),
        command=command,
        note=note,
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=version("hemolens"),
        data=Markup(_json(data)),
        program=Markup(program),
        style=Markup(style),
        program_hash=_hash(program),
        style_hash=_hash(style),
    )


def page_data(
    runs: Sequence[RunFolder],
    histories: Sequence[History],
    pictures: Embedded,
    *,
    page_folder: Path,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """What the page's program reads, JSON-able.

    Config values that all runs share are told once (``common``); ``axes`` are the keys that tell runs apart, keys that
    vary together as one; ``shown`` the columns of the table at first; ``main`` the metric that ranks the runs.
    """
    configs = [run.choices for run in runs]
    common = {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs[1:])}
    axes = _axes(configs, common, " ".join({run.command for run in runs}))
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    main, lower = _ranking(runs, names, metrics)
    first = [name for name in (main, *metrics) if name in names]
    chosen = [axis["key"] for axis in axes if axis["asked"]] or [axis["key"] for axis in axes[:NAME_KEYS]]
    places = _places(runs)[1]
    return {
        "runs": [
            {
                "label": label,
                "folder": place,
                "link": Path(os.path.relpath(run.folder, page_folder)).as_posix(),
                "about": _about(run),
                "config": {key: _plain(value) for key, value in config.items() if key not in common},
                "metrics": {name: _plain(value) for name, value in run.metrics.items()},
                "epochs": history.epochs,
                "curves": {
                    name: [steps.tolist(), _rounded(values)] for name, (steps, values) in history.curves.items()
                },
                "pictures": {
                    name: [small.url, small.width, small.height]
                    for name, small in sorted(pictures.pictures.get(number, {}).items())
                },
            }
            for number, (run, config, history, place, label) in enumerate(
                zip(runs, configs, histories, places, _labels(configs, chosen, places), strict=True)
            )
        ],
        "common": {key: _plain(value) for key, value in common.items()},
        "axes": axes,
        "metrics": names,
        "main": main,
        "lower": lower,
        "shown": ["state", *chosen[:6], *dict.fromkeys(first[:6]), "wall_seconds"],
    }


def _about(run: RunFolder) -> dict[str, Any]:
    status = run.status
    files = [path for name in ("metrics.csv", "status.json") if (path := run.folder / name).exists()]
    return {
        "state": status["state"],
        "job": status["job"],
        "error": status.get("error") or "",
        "epochs": status.get("last_epoch"),
        "wall_seconds": status.get("wall_seconds"),
        "cpu_seconds": status.get("cpu_seconds"),
        "started": (status.get("started") or "")[:19].replace("T", " "),
        "last sign": time.strftime("%Y-%m-%d %H:%M", time.localtime(max(path.stat().st_mtime for path in files))),
        "device": status.get("device") or "",
        "commit": (run.git.get("commit") or "")[:10] + (" with changes" if run.git.get("dirty") else ""),
        "command": run.command,
    }


def _axes(configs: Sequence[Mapping[str, Any]], common: Mapping[str, Any], commands: str) -> list[dict[str, Any]]:
    """Keys that differ, with the number of values; those that a command names (``asked``) first.

    A class (``_target_``) says no more than the choice of net and model that brought it.
    """
    keys = dict.fromkeys(key for config in configs for key in config if key not in common)
    together: dict[tuple[bool, tuple[int, ...]], list[str]] = {}  # seeds apart: over them scores are averaged
    for key in keys:
        if key.rpartition(".")[2].startswith("_"):
            continue
        values: dict[str, int] = {}
        split = tuple(values.setdefault(repr(config.get(key)), len(values)) for config in configs)
        together.setdefault((is_seed(key), split), []).append(key)
    asked = {key for key in keys if re.search(rf"(?<![\w.]){re.escape(key)}=", commands)}
    axes = []
    for (seed, split), group in together.items():
        if max(split) == 0:
            continue  # null in some and absent in others: nothing that tells runs apart
        key = min(group, key=lambda name: (name not in asked, name.count("."), len(name)))
        values_of = max(split) + 1
        also = [name for name in group if name != key]
        axes.append({"key": key, "also": also, "values": values_of, "asked": key in asked, "seed": seed})
    return sorted(axes, key=lambda axis: (not axis["asked"], axis["seed"], len(axis["key"])))


def is_seed(key: str) -> bool:
    """Whether a config key is a seed, over which scores are averaged."""
    return re.search(r"(^|[._])seed$", key) is not None


def _labels(configs: Sequence[Mapping[str, Any]], keys: Sequence[str], places: Sequence[str]) -> list[str]:
    """Short names: the values that tell runs apart, with the folder where those do not suffice."""
    told = [
        " ".join(f"{key.rpartition('.')[2]}={config[key]}" for key in keys[:NAME_KEYS] if config.get(key) is not None)
        for config in configs
    ]
    counts = Counter(told)
    return [
        label
        if label and counts[label] == 1 and len(label) <= LABEL_LETTERS
        else " · ".join(filter(None, [label[:LABEL_LETTERS], place]))
        for label, place in zip(told, places, strict=True)
    ]


def _ranking(runs: Sequence[RunFolder], names: Sequence[str], preferred: Iterable[str]) -> tuple[str | None, list[str]]:
    """The metric that ranks the runs and all metrics of which less is better.

    The runs' own monitor decides (``val/dice`` ranks by ``test/dice`` where it was tested); a training by steps alone
    has none.
    """
    monitors = Counter(
        (run.config.get("monitor.metric"), run.config.get("monitor.mode"))
        for run in runs
        if "/" in str(run.config.get("monitor.metric"))
    )
    monitor, mode = monitors.most_common(1)[0][0] if monitors else ("", None)
    stem = str(monitor).partition("/")[2]
    monitored = {f"{part}/{stem}" for part in ("val", "test")} if stem else set()
    lower = [name for name in names if (mode == "min" if name in monitored else _sounds_lower(name))]
    candidates = ([f"test/{stem}", str(monitor)] if stem else []) + list(preferred)
    scores = [name for name in names if name.startswith(("test/", "val/"))]
    return next((name for name in (*candidates, *scores, *names) if name in names), None), lower


def _sounds_lower(name: str) -> bool:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if name.endswith("_floor") and "over" not in words:  # what chance gives
        return False
    return name == "train/dice" or (bool(LESS_IS_BETTER & words) and not MORE_IS_BETTER & words)


def _figures(folder: Path, images: str) -> dict[str, Path]:
    pattern = {"all": "*.png", "test": "test_*.png"}.get(images)
    return {path.stem: path for path in sorted((folder / "figures").glob(pattern))} if pattern else {}


def _places(runs: Sequence[RunFolder]) -> tuple[Path, list[str]]:
    """The folder that holds all runs, and each run's place in it."""
    folders = [Path(os.path.abspath(run.folder)) for run in runs]
    parent = Path(os.path.commonpath([folder.parent for folder in folders]))
    return parent, [folder.relative_to(parent).as_posix() for folder in folders]


def _left_out_words(small: Embedded, options: PageOptions) -> str:
    if not small.left_out:
        return ""
    each = ", ".join(f"{name} of {count}" for name, count in small.left_out.items())
    return (
        f"Pictures left out, since they would exceed {options.images_mb:g} MB: {each} runs. "
        f"--images-mb raises the limit, --image-px (now {small.width_px}) makes pictures smaller."
    )


def _plain(value: Any) -> Any:
    """A value for JSON, which knows neither NaN nor infinity: these as words, which the table shows."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """To five significant digits, as a chart needs them and whose decimal numbers are short."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _json(data: Any) -> str:
    """JSON that may stand within a script element: no text can end it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
