"""What pictures show: labels with numbers, several labelled ticks, nothing beyond 100 %, every line seen."""

import math

import pytest

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection, PathCollection  # noqa: E402

from dca_export.evaluate.methods import parse  # noqa: E402
from dca_export.evaluate.output import plots  # noqa: E402


def ticks(axis, low, high) -> list[str]:
    axis.figure.draw_without_rendering()
    labels = [
        (label.get_text(), at) for label, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
    ]
    return [text for text, at in labels if text and low <= at <= high]


@pytest.mark.parametrize("top", [10.4, 14.0, 27.0, 900.0, 5e6])
def test_a_logarithmic_axis_has_three_labelled_ticks_or_more(top):
    series = {"plain": [(1000.0, 10.0), (2000.0, top)]}
    axes = plots.lines(series, "tokens", "perplexity", 1500, "title", log_y=True).axes[0]
    assert len(ticks(axes.yaxis, *axes.get_ylim())) >= 3
    assert len(ticks(axes.xaxis, *axes.get_xlim())) >= 3


def test_shares_have_no_tick_beyond_what_can_be():
    axes = plots.lines({"dca": [(1.0, 100.0), (2.0, 0.0)]}, "tokens", "keys found, %", 2, "title").axes[0]
    assert list(axes.get_yticks()) == [0, 20, 40, 60, 80, 100]


def test_lines_on_each_other_differ_in_width_dash_and_marker():
    points = [(1.0, 2.0), (2.0, 3.0)]
    axes = plots.lines({"one": points, "two": points}, "x", "y", 2, "title").axes[0]
    first, second = axes.lines[:2]
    assert first.get_linewidth() > second.get_linewidth()
    assert first.get_linestyle() != second.get_linestyle() and first.get_marker() != second.get_marker()


def test_many_lines_are_named_beside_the_plot_in_colours_of_their_own():
    series = {f"method {n}": [(1.0, n + 1.0), (2.0, n + 2.0)] for n in range(13)}
    figure = plots.lines(series, "x", "y", 2, "title")
    (axes,) = figure.axes
    assert len({line.get_color() for line in axes.lines[:13]}) == 13
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_maps_are_labelled_and_their_figures_can_be_read():
    figure = plots.heat_maps(
        {"dca": [[1.0, 0.5]], "plain": [[0.0, float("nan")]]}, [1000, 24000], [50], "tokens", "depth, %"
    )
    first, second, bar = figure.axes
    assert [label.get_text() for label in first.get_xticklabels()] == ["1,000", "24,000"]
    assert [(t.get_text(), t.get_color()) for t in first.texts] == [("100%", "white"), ("50%", "black")]
    assert [t.get_text() for t in second.texts] == ["0%"]
    assert max(bar.get_yticks()) <= 1


def test_points_are_named_beside_the_plot():
    figure, (axes,) = plots.panels(1, "title")
    bars = [(None, (50.0, 90.0)), ((9.0, 11.0), (60.0, 80.0))]
    points = [(10.0, 75.0, "one: 10, 75%", False), (10.0, 75.0, "two: 10, 75%", True)]
    plots.draw_points(axes, [(*point, bar) for point, bar in zip(points, bars, strict=True)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one: 10, 75%", "two: 10, 75%"]
    sizes = [float(p.get_sizes()[0]) for p in axes.collections if isinstance(p, PathCollection)]
    assert sizes[0] > sizes[1], "the second lies on the first"
    spans = [p.get_segments()[0].tolist() for p in axes.collections if isinstance(p, LineCollection)]
    assert spans == [[[10, 50], [10, 90]], [[9, 75], [11, 75]], [[10, 60], [10, 80]]]


@pytest.mark.parametrize(
    ("method", "own", "label"),
    [
        ("dca", (300, 100, 400, 0.0, 0), "dca:300/100/400"),
        ("intra", (300, 100, 400, 0.1, 500), "intra:300/100/400/0.1/500"),
        ("dca@yarn:2", (300, 100, 400), "dca:300/100/400@yarn:2"),
        ("dca:30/10/40", (300, 100, 400), "dca:30/10/40"),
        ("plain", (300, 100, 400), "plain"),
        ("plain", None, "plain"),
    ],
)
def test_a_label_has_the_schemes_numbers(method, own, label):
    assert parse(method).label(own) == label


@pytest.mark.filterwarnings("error")
def test_a_log_axis_without_a_finite_value_is_no_warning(tmp_path):
    figure = plots.lines({"plain": [(1.0, math.nan)]}, "tokens", "perplexity", 64, "m", log_y=True)
    plots.save(figure, tmp_path / "p.png")
