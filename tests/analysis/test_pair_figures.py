"""Pictures of chosen pairs: each pair at its place in the colours of its cells, and bars as high as the shares."""

import numpy as np
import pytest

from hemolens.analysis.figures import to_array
from hemolens.analysis.pair_figures import (
    GAP_PX,
    HEAD_PX,
    NAME_PX,
    TILE_PX,
    TITLE_PX,
    PairPicture,
    plot_class_counts,
    plot_contact_sheet,
)
from hemolens.io.colors import STORAGE_COLORS

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]
STEP = TILE_PX + GAP_PX


def pair(name: str, kind: int, *, thickness: float = 2.0, side: int = 64) -> PairPicture:
    """A square of one class in the middle, and one that the left border cuts."""
    classes = np.zeros((side, side), np.uint8)
    classes[side // 4 : side // 2, side // 4 : 3 * side // 4] = kind
    classes[3 * side // 4 : 7 * side // 8, : side // 8] = kind
    instances = np.where(classes > 0, 1, 0)
    instances[3 * side // 4 :] *= 2
    return PairPicture(name, np.where(classes > 0, thickness, 0.0), classes, instances, kind)


def texts(figure: object) -> list[str]:
    return [text.get_text() for text in figure.texts]  # type: ignore[attr-defined]


def test_pairs_lie_under_their_type_in_the_colour_of_their_cells() -> None:
    pairs = [pair("first", 4), *(pair(f"many{number}", 1, side=256) for number in range(12)), pair("last", 4)]
    figure = plot_contact_sheet(pairs, NAMES, [0, 388, 0, 0, 2])
    drawn = to_array(figure).astype(int)
    # ten in a row: two rows of discocytes, one of stomatocytes
    rows = [TITLE_PX + HEAD_PX + number * (STEP + NAME_PX) for number in range(2)]
    rows.append(rows[1] + STEP + NAME_PX + HEAD_PX)
    assert drawn.shape == (rows[2] + STEP + NAME_PX + GAP_PX, 10 * STEP + GAP_PX, 3)
    for top, count, kind in ((rows[0], 10, 1), (rows[1], 2, 1), (rows[2], 2, 4)):
        for column in range(10):
            left = GAP_PX + column * STEP
            tile = drawn[top : top + TILE_PX, left : left + TILE_PX]
            if column >= count:
                assert (tile == 255).all()
                continue
            assert (tile[8, 8] == 0).all()  # background
            color = np.array(STORAGE_COLORS[kind])
            quarter = TILE_PX // 4
            assert np.abs(tile[quarter, 2 * quarter] - color).max() <= 2  # outline
            inside = tile[int(1.5 * quarter), 2 * quarter]
            assert (np.abs(inside - color).max() > 2) and inside.argmax() == color.argmax()
            cut = tile[int(3.25 * quarter)]
            assert np.abs(cut[0] - inside).max() <= 2  # no outline where the border cuts a cell
            assert np.abs(cut[TILE_PX // 8 - 1] - color).max() <= 2
            assert (drawn[top + 20 : top + 100, left - 1] == 255).all()  # white between pairs
    assert texts(figure)[0] == "14 of 390 chosen pairs  ·  376 more are not shown"
    assert {"discocyte", "12 of 388 pairs", "stomatocyte", "2 pairs", "many11", "first"} <= set(texts(figure))
    assert "spherocyte" not in texts(figure)


def test_all_pairs_have_one_scale_of_grey() -> None:
    drawn = to_array(plot_contact_sheet([pair("a", 1), pair("b", 1, thickness=1.0)], NAMES, [0, 2, 0, 0, 0]))
    at = TITLE_PX + HEAD_PX + TILE_PX * 3 // 8
    thick, thin = (drawn[at, GAP_PX + TILE_PX // 2 + column * STEP].astype(int) for column in range(2))
    assert thick.sum() > 1.5 * thin.sum()
    assert texts(plot_contact_sheet([pair("a", 1)], NAMES, [0, 1, 0, 0, 0]))[0] == "1 of 1 chosen pairs"


def test_pairs_of_other_shapes_and_without_cells() -> None:
    wide = np.zeros((32, 64))
    empty = PairPicture("$name_" + "long" * 20, wide, wide.astype(np.uint8), wide.astype(int), 0)
    figure = plot_contact_sheet([pair("a", 2), empty], NAMES, [3, 0, 1, 0, 0])
    drawn = to_array(figure)
    assert drawn.shape[1] == 5 * STEP + GAP_PX  # wide enough for its title
    top = TITLE_PX + 2 * HEAD_PX + STEP + NAME_PX
    tile = drawn[top : top + TILE_PX, GAP_PX : GAP_PX + TILE_PX]
    assert (tile[: TILE_PX // 2] == 0).all() and (tile[TILE_PX // 2 :] == 255).all()
    assert {"no cells", "1 of 3 pairs", "spherocyte"} <= set(texts(figure))
    assert any(text.startswith("…") and len(text) == 30 for text in texts(figure))
    with_outlier = np.array(wide)
    with_outlier[0, 0] = np.nan
    figure = plot_contact_sheet(
        [pair("a", 2), PairPicture("b", with_outlier, empty.classes, empty.instances, 0)], NAMES, [1, 0, 1, 0, 0]
    )
    tile = to_array(figure)[TITLE_PX + HEAD_PX :, GAP_PX:][:TILE_PX, :TILE_PX]
    assert tile[TILE_PX * 3 // 8, TILE_PX // 2].max() > 200  # what is not finite does not spoil the others


def test_bars_are_as_high_as_the_shares() -> None:
    figure = plot_class_counts([1600, 100, 300, 0], [60, 40, 50, 50], NAMES, (1000, 100))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.8, 0.05, 0.15, 0, 0.3, 0.2, 0.25, 0.25])
    for bars, strength in ((axes.patches[:4], 0.35), (axes.patches[4:], 1.0)):
        for bar, color in zip(bars, STORAGE_COLORS[1:], strict=True):
            expected = 1 - strength * (1 - np.array(color) / 255)
            assert bar.get_facecolor()[:3] == pytest.approx(expected)
    shown = [text.get_text() for text in axes.texts]
    assert shown[:4] == ["1,600\n80%", "100\n5%", "300\n15%", "0\n0%"] and shown[4] == "60\n30%"
    (line,) = axes.lines
    assert list(line.get_ydata()) == [0.25, 0.25] and "equal" in shown
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["all candidates: 1,000 pairs, 2,000 cells", "chosen: 100 pairs, 200 cells"]
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES[1:]
    assert axes.get_ylim()[1] > 0.9
    to_array(figure)


def test_bars_of_nothing() -> None:
    figure = plot_class_counts([0, 0], [0, 0], ["background", "a", "b"], (3, 0))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0, 0, 0, 0]
    to_array(figure)
