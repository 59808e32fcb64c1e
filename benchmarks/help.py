"""How soon ``--help`` answers: beside a Python that imports nothing, and one that imports what training needs first."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Comparison, Options, Side
from benchmarks.machine import ROOT

# Bars, by what is asked for help: (milliseconds, a word that the answer holds).
BARS = {"": (1000.0, "verbs:"), "train": (2500.0, "Config groups:")}
IMPORTS = "import lightning, torch, torchvision, torchmetrics, timm, segmentation_models_pytorch"


def comparisons(options: Options) -> Iterator[Comparison]:
    """Each in a process of its own."""
    for verb, (most_ms, word) in BARS.items():
        words = [verb] if verb else []
        ours = ["-m", "hemolens.cli.main", *words, "--help"]
        command = " ".join(["hemolens", *words, "--help"])
        yield Comparison(
            f"{command}, imports at the top",
            Side("hemolens", {"command": command}, answer(ours)),
            Side("imports at the top", {"command": f"{IMPORTS}; then the same"}, answer(["-c", eager(words)])),
            checker(word, same=True),
            "the same text",
            most_ms=most_ms,
        )
        if not options.quick:
            yield Comparison(
                f"{command}, an empty Python",
                Side("hemolens", {"command": command}, answer(ours)),
                Side("python", {"command": "python -c pass"}, answer(["-c", "pass"])),
                checker(word, same=False),
                "not compared: the peer says nothing",
                most_ms=most_ms,
            )


def eager(words: list[str]) -> str:
    """A program that imports everything first, as a script whose imports stand at its top."""
    return f"{IMPORTS}\nimport sys\nfrom hemolens.cli.main import main\nsys.exit(main({[*words, '--help']!r}))"


def answer(arguments: list[str]) -> Callable[[], str]:
    """What a new Python prints."""

    def run() -> str:
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
        )
        return done.stdout

    return run


def checker(word: str, *, same: bool) -> Callable[[Any, Any], dict[str, float]]:
    """Both answered; with ``same``, alike."""

    def check(ours: str, peer: str) -> dict[str, float]:
        assert word in ours, ours[:200]
        assert not same or ours == peer, "the texts differ"
        return {"characters": float(len(ours))}

    return check
