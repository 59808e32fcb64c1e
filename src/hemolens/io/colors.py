"""One colour per class, the same in overlays, plots and GeoJSON."""

from collections.abc import Sequence

# The first seven are the colours of Okabe and Ito ("Color Universal Design", 2008) without black, those that
# show on pale smears, dark projections and white paper first; then five of Paul Tol's "muted" set.
_PALETTE = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
    (136, 204, 238),  # cyan
    (153, 153, 51),  # olive
    (170, 68, 153),  # purple
    (221, 204, 119),  # sand
    (136, 34, 85),  # wine
)


def class_color(label: int) -> tuple[int, int, int]:
    """Red, green, blue (0 … 255) of class ``label``; told apart with red-green colour blindness.

    Colours repeat after twelve classes.
    """
    return _PALETTE[label % len(_PALETTE)]


STORAGE_TYPES = ("discocyte", "spherocyte", "echinocyte", "stomatocyte")
#: Background, discocyte, spherocyte, echinocyte, stomatocyte, as paper B draws its labels.
STORAGE_COLORS = ((0, 0, 0), (220, 38, 38), (37, 99, 235), (22, 163, 74), (234, 179, 8))


def mask_colors(class_names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Red, green, blue of each label of a mask, black for the background: paper B's for its types.

    Args:
        class_names: background first.
    """
    if tuple(class_names[1:]) == STORAGE_TYPES:
        return STORAGE_COLORS
    return ((0, 0, 0), *(class_color(label) for label in range(len(class_names) - 1)))
