"""Tables and figures of generated images."""

import math

import numpy as np

from hemolens.analysis.figures import to_array
from hemolens.analysis.generation_figures import plot_floors, plot_samples
from hemolens.analysis.generation_report import generation_markdown, generation_results, generation_table

RESULTS = {
    **{"histogram_rad": 0.05, "histogram_rad_floor": 0.02, "area_um2": math.nan, "area_um2_floor": 3.0},
    **{"kernel": 0.01, "kernel_floor": -0.002, "over_floor": 2.5, "samples": 90.0},
}


def test_a_distance_stands_beside_its_floor_and_their_ratio() -> None:
    table = generation_table(RESULTS, ())
    lines = {line.split("  ")[0]: line.split() for line in table.splitlines()}
    assert lines["histogram of phase, W1, rad"][-3:] == ["0.05", "0.02", "2.5"]
    assert lines["area of cells, W1, um2"][-3:] == ["nan", "3", "-"]
    assert lines["kernel distance of features"][-1] == "-"  # its floor is about 0
    assert "power spectrum" not in table and "90 generated and 90 real" in table and "2.50 times" in table
    markdown = generation_markdown(RESULTS, ())
    assert markdown.count("\n| ") == 4 and "| histogram of phase, W1, rad | 0.05 | 0.02 | 2.5 |" in markdown
    assert generation_results(RESULTS, ())["area_um2"] is None
    assert "at least two images" in generation_table({"over_floor": math.nan, "samples": 0.0}, ())


def test_floors_are_drawn_where_there_is_a_ratio() -> None:
    axes = plot_floors(RESULTS).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["histogram_rad"]
    assert [bar.get_width() for bar in axes.patches] == [2.5]


def test_samples_have_one_scale_and_stand_in_order() -> None:
    real = np.arange(5)[:, None, None] * np.ones((5, 8, 8)) * 0.5
    figure = plot_samples(real, real + 1, columns=3, rows=2)
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(shown) == 10 and len({image.get_clim() for image in shown}) == 1
    assert [float(np.asarray(image.get_array())[0, 0]) for image in shown] == [0, 0.5, 1, 1.5, 2, 1, 1.5, 2, 2.5, 3]
    assert to_array(figure).shape[2] == 3
