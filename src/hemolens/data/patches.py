"""Windows of a large image.

Paper B cuts 900x900 px into "nine non-overlapping patches of 256x256": no such nine cover the image (27 % stay out), so
that reading is a choice, ``paper_3x3``, beside one that covers all, ``grid``.
"""

from collections.abc import Sequence

import numpy as np

from hemolens.errors import UserError
from hemolens.postprocess.tiles import tile_grid

MODES = ("random", "paper_3x3", "centred_3x3", "grid")


def patch_corners(
    size: Sequence[int],
    patch_px: int = 256,
    *,
    mode: str = "grid",
    count: int = 9,
    overlap_px: int = 0,
    rng: np.random.Generator | None = None,
) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of the patches of an image.

    - ``random``: ``count`` patches anywhere inside.
    - ``paper_3x3``: three by three from the upper left corner, edge to edge.
    - ``centred_3x3``: the same in the middle of the image.
    - ``grid``: as few as cover every pixel with at least ``overlap_px`` shared by neighbours, evenly spaced.

    Args:
        size: (H, W) of the image.
        patch_px: side of a patch.
        mode: one of the above.
        count: of ``random``.
        overlap_px: of ``grid``.
        rng: source of ``random``.

    Raises:
        UserError: an unknown mode, an image that is too small, or an overlap that leaves no step.
    """
    height, width = size
    if mode not in MODES:
        raise UserError(f"patches={mode}: choose from {', '.join(MODES)}")
    needed = patch_px * (3 if mode.endswith("3x3") else 1)
    if min(height, width) < needed:
        raise UserError(
            f"an image of {height}×{width} px is too small for {mode} patches of {patch_px} px: {needed} px a side are "
            "needed; choose a smaller patch_px, or patches=grid"
        )
    if mode == "random":
        if rng is None or count < 1:
            raise UserError("patches=random needs a random generator and a count of at least 1")
        rows, columns = (rng.integers(0, side - patch_px + 1, size=count).tolist() for side in (height, width))
        return list(zip(rows, columns, strict=True))
    if mode == "grid":
        if not 0 <= overlap_px < patch_px:
            raise UserError(f"overlap_px={overlap_px}: from 0 to below patch_px={patch_px}")
        return [(tile.y1, tile.x1) for tile in tile_grid(height, width, patch_px, overlap_px)]
    margins = [(side - 3 * patch_px) // 2 if mode == "centred_3x3" else 0 for side in (height, width)]
    sides = [[margin + patch_px * step for step in range(3)] for margin in margins]
    return [(y, x) for y in sides[0] for x in sides[1]]
