"""Tables that W&B can redraw."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def confusion_table(matrix: Tensor | NDArray[Any], names: Sequence[str]) -> Any:
    """A ``wandb.Table`` with a row for each pair of truth and prediction.

    Args:
        matrix: counts [N, N], rows = truth.
        names: of its rows and columns.
    """
    import wandb

    table = wandb.Table(columns=["truth", "predicted", "count"])
    for row_name, row in zip(names, matrix.tolist(), strict=True):
        for column_name, count in zip(names, row, strict=True):
            table.add_data(row_name, column_name, count)
    return table


def picture_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A ``wandb.Table`` with a row a picture, by whose ``id`` W&B lays runs side by side; None without rows."""
    import wandb

    if not rows:
        return None
    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
