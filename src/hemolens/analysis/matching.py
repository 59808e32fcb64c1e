"""Which found cell is which true cell."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd
import torch

from hemolens.errors import UserError
from hemolens.metrics.box_matching import match_one_to_one, pool_boxes

FOUND_BOX = ("x0", "y0", "x1", "y1")
TRUE_BOX = ("x1_px", "y1_px", "x2_px", "y2_px")


def match_cells(found: pd.DataFrame, truth: pd.DataFrame, *, iou: float = 0.5) -> pd.DataFrame:
    """Found cells joined to true ones, one to one, whatever their classes (greedy by score, as in Table 3's metric).

    Args:
        found: ``cells.csv`` of a prediction: ``file``, ``x0`` … ``y1``, ``score``.
        truth: ``cells.csv`` of a simulation: ``file``, ``x1_px`` … ``y2_px``; files by the same names, or by names that
            end alike (one table's may be relative to a folder further down).
        iou: least overlap of a pair.

    Returns:
        The columns of both tables, those of the truth with the prefix ``true_`` where they lack it; a row a pair.

    Raises:
        UserError: a column is missing, or none of the files is in both tables.
    """
    for name, table, columns in (
        ("found cells", found, ("file", "score", *FOUND_BOX)),
        ("true cells", truth, ("file", *TRUE_BOX)),
    ):
        missing = set(columns) - set(table.columns)
        if missing:
            raise UserError(f"table of {name} without {', '.join(sorted(missing))}")
    names = common_files(found.file.unique().tolist(), truth.file.unique().tolist())
    if not names and len(found):
        raise UserError(
            f"no file of the cells ({found.file.iloc[0]}) is in the truth ({truth.file.iloc[0]}): "
            "give the truth of these tomograms"
        )
    found = found[found.file.isin(list(names))].reset_index(drop=True)
    known = truth[truth.file.isin(list(names.values()))].reset_index(drop=True)
    of_found = {file: rows for file, rows in found.groupby("file").groups.items()}
    of_truth = {file: rows for file, rows in known.groupby("file").groups.items()}
    pairs: list[tuple[int, int]] = []
    for mine, theirs in names.items():
        left, right = found.loc[of_found[mine]], known.loc[of_truth[theirs]]
        boxes = (torch.tensor(part.to_numpy(float, copy=True)) for part in (left[[*FOUND_BOX]], right[[*TRUE_BOX]]))
        detected, true = boxes
        zeros = (torch.zeros(len(part), dtype=torch.int64) for part in (left, right))
        scores = torch.tensor(left.score.to_numpy(float, copy=True))
        detections = pool_boxes([{"boxes": detected, "labels": next(zeros), "scores": scores}], "found", 1, scored=True)
        targets = pool_boxes([{"boxes": true, "labels": next(zeros)}], "true", 1, scored=False)
        matches = match_one_to_one(detections, targets, iou)
        pairs += zip(left.index[matches.detection.numpy()], right.index[matches.truth.numpy()], strict=True)
    chosen = found.loc[[i for i, _ in pairs]].reset_index(drop=True)
    other = known.loc[[j for _, j in pairs]].reset_index(drop=True)
    other = other.rename(columns={"class": "true_class", "true_class": "drawn_class"})
    other.columns = [name if name.startswith(("true_", "drawn_")) else f"true_{name}" for name in other.columns]
    return pd.concat([chosen, other], axis=1)


def common_files(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """For each name the one among ``others`` that is equal to it, or whose path ends with it (or the reverse).

    Names that fit none, or several, are left out.
    """
    by_base: dict[str, list[str]] = {}
    for other in others:
        by_base.setdefault(PurePosixPath(other).name, []).append(other)
    found = {}
    for name in names:
        fitting = [
            other
            for other in by_base.get(PurePosixPath(name).name, [])
            if f"/{other}".endswith(f"/{name}") or f"/{name}".endswith(f"/{other}")
        ]
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found
