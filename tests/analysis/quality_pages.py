"""Bags for the quality report, made up in a moment."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hemolens.analysis.image_quality import QualityFlag
from hemolens.analysis.morphology_score import morphology_score
from hemolens.analysis.quality_report import BagQuality, FlaggedImage, TypeShare
from hemolens.io.colors import STORAGE_TYPES

COUNTS = dict(zip(STORAGE_TYPES, (168, 37, 85, 19), strict=True))
FLAG = QualityFlag("out_of_focus", "defocus_um", 7.1, 5.5, "About 7.1 µm out of focus (at most 5.5): take it again.")
PICTURE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def flagged(number: int, name: str = "field", flags: int = 1) -> list[FlaggedImage]:
    return [FlaggedImage(file=f"{name}_{at:03d}", flags=[FLAG] * flags, picture=PICTURE) for at in range(number)]


def bag(counts: Mapping[str, int] = COUNTS, **changes: Any) -> BagQuality:
    cells = sum(counts.values())
    shares = [
        TypeShare(name=name, count=count, share=count / cells, low=0.8 * count / cells, high=1.1 * count / cells)
        if cells
        else TypeShare(name=name, count=0, share=math.nan, low=math.nan, high=math.nan)
        for name, count in counts.items()
    ]
    values: dict[str, Any] = {
        "bag": "B-17",
        "storage_day": 40,
        "expiry": "2026-12-01",
        "hemolysis_percent": 0.42,
        "images": 6,
        "cells": cells + 4 * bool(cells),
        "undecided": 4 * bool(cells),
        "shares": shares,
        "interval_words": "t interval of images",
        "score": morphology_score(counts),
        "example": PICTURE,
        "history": [(8, {"discocyte": 0.95, "echinocyte": 0.02}), (40, {"discocyte": 0.54, "echinocyte": 0.28})],
        "about": {"checkpoint": "best.ckpt", "commit": "0a1b2c3", "date": "2026-11-24"},
    }
    return BagQuality(**values | changes)
