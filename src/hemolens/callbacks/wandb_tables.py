"""Tables that W&B can redraw."""

from collections.abc import Sequence
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
