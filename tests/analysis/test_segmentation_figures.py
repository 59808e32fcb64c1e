"""Pictures of segmented phase images: the colours of known pixels, bars and legends."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hemolens.analysis.figures import LEGEND_PX, to_array
from hemolens.analysis.segmentation_figures import (
    FILL,
    SegmentedImage,
    color_mask,
    draw_overlay,
    grey_levels,
    overlay,
    plot_segmentations,
    plot_type_scores,
)
from hemolens.io.colors import STORAGE_COLORS, class_color, mask_colors

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phase, classes and instances of four squares, a class each; the first is of two cells."""
    classes, instances = np.zeros((100, 160), np.uint8), np.zeros((100, 160), np.int32)
    for number in range(4):
        at = np.s_[20:60, 10 + 36 * number : 40 + 36 * number]
        classes[at], instances[at] = number + 1, number + 1
    instances[20:60, 10:25] = 9
    return np.where(classes > 0, 2.0, 0.0), classes, instances


def test_grey_levels_go_from_the_background_to_the_thickest_cell() -> None:
    phase = np.zeros((100, 100))
    phase[:50, :50], phase[0, 0], phase[99, 99] = 4.0, 400.0, -400.0  # two pixels beyond do not count
    grey = grey_levels(phase)
    assert grey.dtype == np.uint8
    assert (grey[20, 20], grey[80, 80], grey[0, 0], grey[99, 99]) == (255, 0, 255, 0)
    phase[60:80, 60:80] = 1.0
    assert grey_levels(phase)[70, 70] in (63, 64)
    assert np.array_equal(grey_levels(3 * phase - 7), grey_levels(phase))
    assert not grey_levels(np.ones((5, 5))).any()


def test_masks_have_the_papers_colours() -> None:
    _, classes, _ = scene()
    pixels = color_mask(classes, NAMES)
    for number in range(5):
        assert (pixels[classes == number] == STORAGE_COLORS[number]).all()
    assert mask_colors(["background", "a", "b"]) == ((0, 0, 0), class_color(0), class_color(1))


def test_an_overlay_tints_cells_and_draws_their_outlines() -> None:
    phase, classes, instances = scene()
    pixels = overlay(phase, classes, NAMES, instances)
    assert (pixels[80, 80] == 0).all() and pixels.dtype == np.uint8
    for number in range(1, 5):
        left = 10 + 36 * (number - 1)
        inside = (1 - FILL) * 255 + FILL * np.array(STORAGE_COLORS[number])
        assert pixels[40, left + 8] == pytest.approx(inside, abs=0.51)
        assert (pixels[20, left + 8] == STORAGE_COLORS[number]).all()  # the outline
        assert (pixels[40, left] == STORAGE_COLORS[number]).all()
        assert (pixels[40, left - 1] == 0).all()  # inside of the cell alone
    # between two cells of one class there is an outline, which the classes alone do not have
    between = pixels[40, 24:26]
    assert (between == STORAGE_COLORS[1]).all()
    assert (overlay(phase, classes, NAMES)[40, 24:26] == pixels[40, 30]).all()


def test_an_overlay_keeps_its_pixels_and_has_a_legend_that_counts() -> None:
    phase, classes, instances = scene()
    pixels = np.kron(overlay(phase, classes, NAMES, instances), np.ones((8, 8, 1), np.uint8))
    figure = draw_overlay(pixels, {"discocyte": 2, "echinocyte": 11}, NAMES)
    drawn = to_array(figure).astype(int)
    assert drawn.shape == (800 + LEGEND_PX, 1280, 3)
    assert np.abs(drawn[:800] - pixels).max() <= 1
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["discocyte  2", "spherocyte  0", "echinocyte  11", "stomatocyte  0"]
    strip = drawn[800:].reshape(-1, 3)
    for color in STORAGE_COLORS[1:]:
        assert (np.abs(strip - color).max(1) < 4).sum() > 50
    small = to_array(draw_overlay(pixels[:400:8, :640:8], {}, NAMES))
    assert small.shape == (50 * 8 + LEGEND_PX, 640, 3)  # small images are drawn large enough for the legend


def cell_at(figure: object, row: int, column: int, columns: int) -> np.ndarray:
    """The pixels of one picture of the grid."""
    axes = figure.axes[row * columns + column]  # type: ignore[attr-defined]
    drawn = to_array(figure)  # type: ignore[arg-type]
    box = axes.get_window_extent()
    height = drawn.shape[0]
    return drawn[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)].astype(int)


def test_rows_of_phase_truth_and_predictions() -> None:
    phase, classes, _ = scene()
    wrong = classes.copy()
    wrong[20:60, 46:76] = 4  # a spherocyte taken for a stomatocyte
    wrong[70:90, 100:140] = 2  # spurious
    images = [
        SegmentedImage("first", phase, classes, {"resunet": wrong, "unet": classes}),
        SegmentedImage("$second_1", phase[:, ::-1], classes[:, ::-1], {"resunet": classes[:, ::-1], "unet": wrong}),
    ]
    figure = plot_segmentations(images, NAMES)
    assert len(figure.axes) == 2 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["phase", "truth", "resunet", "unet"]
    assert [figure.axes[4 * row].get_ylabel() for row in range(2)] == ["first", "$second_1"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*NAMES[1:], "missed", "pale: wrong"]
    for column, shown in ((0, None), (1, classes), (2, wrong), (3, classes)):
        picture = cell_at(figure, 0, column, 4)
        scale = np.array(picture.shape[:2]) / (100, 160)
        for y, x in ((40, 20), (40, 60), (40, 95), (40, 130), (80, 120), (10, 80)):
            seen = picture[int((y + 0.5) * scale[0]), int((x + 0.5) * scale[1])]
            if shown is None:
                expected = [255 if classes[y, x] else 0] * 3
            elif column > 1 and shown[y, x] != classes[y, x]:
                # wrong: the colour of what was said, two thirds of the way to white
                expected = [round(255 * 2 / 3 + value / 3) for value in STORAGE_COLORS[shown[y, x]]]
            else:
                expected = list(STORAGE_COLORS[shown[y, x]])
            assert np.abs(seen - expected).max() <= 2, (column, y, x)


def test_rows_without_truth() -> None:
    phase, classes, _ = scene()
    figure = plot_segmentations([SegmentedImage("x", phase, None, {"prediction": classes})], NAMES)
    assert [axes.get_title() for axes in figure.axes] == ["phase", "prediction"]
    picture = cell_at(figure, 0, 1, 2)
    colors = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert colors == set(STORAGE_COLORS)  # nothing is known to be wrong


def test_bars_are_as_high_as_the_scores() -> None:
    scores = {"Dice": torch.tensor([0.9, float("nan"), 0.25, 1.0]), "AJI": [0.5, 0.25, 0.0, 0.125]}
    figure = plot_type_scores(scores, NAMES)
    axes = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.9, 0.0, 0.25, 1.0, 0.5, 0.25, 0.0, 0.125])
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES[1:]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert middles == pytest.approx([0 - 0.2, 1 - 0.2, 2 - 0.2, 3 - 0.2, 0.2, 1.2, 2.2, 3.2])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.90", "–", "0.25", "1.00", "0.50", "0.25", "0.00", "0.12"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Dice", "AJI"]


def test_long_names_of_networks_do_not_run_into_each_other() -> None:
    phase, classes, _ = scene()
    names = [f"ResUnet + DA & SSL ({name}, 2× larger pixels)" for name in ("resunet18", "resunet50")]
    figure = plot_segmentations([SegmentedImage("first", phase, classes, dict.fromkeys(names, classes))], NAMES)
    to_array(figure)
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert max(box.y1 for box in boxes) <= figure.bbox.height


def test_many_networks_stand_in_bands_and_beside_their_bars() -> None:
    phase, classes, _ = scene()
    names = [f"net {number}" for number in range(8)]
    figure = plot_segmentations([SegmentedImage("first", phase, classes, dict.fromkeys(names, classes))], NAMES)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["phase", "truth", *names[:6], "phase", "truth", *names[6:], *[""] * 4]
    to_array(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert boxes[8].y1 < boxes[0].y0 and boxes[8].x0 == pytest.approx(boxes[0].x0)
    bars = plot_type_scores({name: [0.1, 0.2, 0.3, 0.4] for name in [*names, "a", "b", "c"]}, NAMES)
    assert len({patch.get_facecolor() for patch in bars.axes[0].patches}) == 11  # no colour twice
    to_array(bars)
    legend, plot = bars.legends[0].get_window_extent(), bars.axes[0].get_window_extent()
    assert plot.x1 < legend.x0 and legend.x1 <= bars.bbox.width
