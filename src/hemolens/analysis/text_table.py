"""Tables of words and numbers, for the terminal and for Markdown."""

from collections.abc import Collection, Sequence


def plain_table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), total: bool = False) -> str:
    """Aligned columns; a rule below the head and one at the end, or above the last row.

    Args:
        rows: the head first.
        left: columns aligned to the left; the others to the right.
        total: the last row sums up the others.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]] if total else [lines[0], rule, *lines[1:], rule])


def markdown_table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """The same in Markdown."""
    rule = ["---" if column in left else "---:" for column in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
