from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hemolens.analysis.figures import (
    LEGEND_PX,
    Picture,
    displayable,
    draw_detections,
    plot_confusion,
    plot_overlay_grid,
    plot_precision_recall,
    save_figure,
    to_array,
)
from hemolens.errors import UserError
from hemolens.io.colors import class_color

NAMES = ("RBC", "WBC", "Platelets")


def near(pixels: np.ndarray, color: tuple[float, ...], tolerance: int = 12) -> np.ndarray:
    return (np.abs(pixels.astype(int) - np.array(color)) <= tolerance).all(axis=-1)


@pytest.mark.parametrize("shade", [0, 128, 235])
@pytest.mark.parametrize("channels", [None, 3])
def test_boxes_have_the_class_colour_and_the_right_place(shade: int, channels: int | None) -> None:
    image = np.full((100, 200) if channels is None else (100, 200, channels), shade, dtype=np.uint8)
    boxes = [[20, 30, 60, 80], [120, 10, 180, 90]]
    pixels = to_array(draw_detections(image, boxes, [0, 1], None, NAMES))
    scale = 5  # 200 px are enlarged to 1000
    assert pixels.shape == (100 * scale + LEGEND_PX, 200 * scale, 3)
    for (x1, y1, x2, y2), label in zip(boxes, (0, 1), strict=True):
        drawn = near(pixels[: 100 * scale], class_color(label))
        for x, y in [(x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2)]:
            column, row = round(x * scale), round(y * scale)
            assert drawn[row - 2 : row + 2, column - 2 : column + 2].any(), (label, x, y)
        rows, columns = np.nonzero(drawn)
        assert rows.min() >= y1 * scale - 3 and rows.max() <= y2 * scale + 3
        assert columns.min() >= x1 * scale - 3 and columns.max() <= x2 * scale + 3
    untouched = pixels[35 * scale : 75 * scale, 25 * scale : 55 * scale]
    assert (np.abs(untouched.astype(int) - shade) <= 1).all()
    # The rim: dark pixels beside the line where neither image nor line is dark.
    if shade:
        line = pixels[: 100 * scale][55 * scale, 20 * scale - 6 : 20 * scale + 6].max(axis=-1)
        assert line.min() < 0.7 * shade


def test_large_image_keeps_its_pixels_and_huge_one_is_shrunk() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 1200), dtype=np.uint8)
    pixels = to_array(draw_detections(image, [], [], [], NAMES))
    np.testing.assert_allclose(pixels[:700].astype(int), np.repeat(image[..., None], 3, axis=2), atol=1)
    assert to_array(draw_detections(np.zeros((60, 6000), np.uint8), [], [], None, NAMES)).shape[1] == 3000


def test_truth_is_dashed_and_only_drawn_if_given() -> None:
    image = np.zeros((100, 200), np.uint8)
    with_truth = draw_detections(image, [], [], None, NAMES, truth={"boxes": [[20, 20, 180, 80]], "labels": [1]})
    row = to_array(with_truth)[100 - 4 : 100 + 4].max(axis=(0, 2))[110:890] > 60
    assert 0.4 < row.mean() < 0.9
    assert np.abs(np.diff(row.astype(int))).sum() > 40
    assert not to_array(draw_detections(image, [], [], None, NAMES))[:500].any()


def test_scores_are_written_where_there_is_room() -> None:
    image = np.zeros((100, 200), np.uint8)
    boxes = [[20, 20, 50, 50], [100, 20, 105, 25]]
    written = [text.get_text() for text in draw_detections(image, boxes, [0, 0], [0.876, 0.5], NAMES).axes[0].texts]
    assert written == ["0.88"]


def test_grid_shows_every_picture_and_title() -> None:
    pictures = [
        Picture(np.full((40, 60, 3), 50 * i, np.uint8), [[10, 10, 30, 30]], [i], [0.9], title=f"field {i}")
        for i in range(3)
    ]
    figure = plot_overlay_grid(pictures, NAMES, columns=2)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["field 0", "field 1", "field 2"]
    pixels = to_array(figure)
    assert all(near(pixels, class_color(label)).sum() > 200 for label in range(3))
    assert to_array(plot_overlay_grid([], NAMES)).shape[0] < 2 * LEGEND_PX


def test_displayable_takes_what_data_modules_and_files_hold() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(displayable(grey), grey)
    np.testing.assert_array_equal(displayable(grey[None]), grey)
    colour = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(displayable(colour), colour)
    np.testing.assert_array_equal(displayable(np.moveaxis(colour, -1, 0)), colour)
    phase = displayable(torch.linspace(-1, 5, 10_000).reshape(1, 100, 100))
    assert phase.dtype == np.uint8 and phase.shape == (100, 100)
    assert (phase.min(), phase.max(), phase[50, 0]) == (0, 255, 128)
    assert not displayable(np.ones((4, 4), np.float32)).any()
    with pytest.raises(ValueError, match="an image is"):
        displayable(np.zeros((2, 5, 6)))


def test_precision_recall_draws_the_curves_it_is_given() -> None:
    curves = [(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.8])), ([0.25], [1.0]), ([], [])]
    figure = plot_precision_recall(curves, NAMES, torch.tensor([0.9, 0.25, torch.nan]))
    lines = figure.axes[0].lines
    assert lines[0].get_xdata().tolist() == [0.5, 1.0]
    np.testing.assert_allclose(lines[0].get_ydata(), [1.0, 0.8])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["RBC  AP 0.900", "WBC  AP 0.250", "Platelets  (no test boxes)"]
    assert to_array(figure).std() > 0


@pytest.mark.parametrize("background", [False, True])
def test_confusion_shows_counts_and_row_shares(background: bool) -> None:
    matrix = np.array([[90, 10, 0], [1, 3, 0], [1234, 2, 0]])
    figure = plot_confusion(torch.tensor(matrix if background else matrix[:2, :2]), NAMES[:2])
    texts = [text.get_text() for text in figure.axes[0].texts]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    if background:
        assert texts[:4] == ["90", "90.0%", "10", "10.0%"]
        assert texts[-2:] == ["1,234", "2"]
        assert labels == ["RBC", "WBC", "spurious"]
    else:
        assert texts == ["90", "90.0%", "10", "10.0%", "1", "25.0%", "3", "75.0%"]
        assert labels == ["RBC", "WBC"]
    with pytest.raises(ValueError, match="need a matrix of 3 or 4 rows"):
        plot_confusion(matrix[:2, :2], NAMES)


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    figure = draw_detections(np.zeros((50, 50), np.uint8), [], [], None, NAMES)
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), to_array(figure))
    with pytest.raises(UserError, match="exists"):
        save_figure(figure, tmp_path / "a.png")

    class Failing(Figure):
        def savefig(self, path: Path, **_: object) -> None:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        save_figure(Failing(), tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
