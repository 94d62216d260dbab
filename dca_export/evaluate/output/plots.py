"""The pictures of experiments. Needs matplotlib (the extra ``eval``)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dca_export.errors import InputError, MissingPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

try:
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # noqa: F811 - without pyplot: no window, no global state
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise MissingPackage("plots need matplotlib", "eval") from error

Bands = Mapping[str, Sequence[tuple[float, float, float]]]
"""(x, low, high) of points by the name of their line."""

KINDS = ("png", "svg", "pdf")
PANEL = (4.8, 3.6)  # inches
MAPS_ACROSS = 3  # a page is not wider


def panels(count: int, title: str) -> tuple[Figure, Sequence["Axes"]]:
    """A figure of ``count`` plots beside each other."""
    width, height = PANEL
    figure = Figure(figsize=(max(width * count, 8), height + 0.4), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, count, squeeze=False)[0]


Bars = tuple[tuple[float, float] | None, tuple[float, float]]
"""A point's intervals: of x, where there is one, and of y."""


def draw_points(axes: "Axes", points: Sequence[tuple[float, float, str, bool, Bars]]) -> None:
    """Points (x, y, label, emphasised, their intervals), told apart by a legend beside the plot: labels at
    points that lie close together would cover each other."""
    for order, (x, y, label, emphasised, (across, up)) in enumerate(points):
        if across is not None:
            axes.hlines(y, *across, color="grey", alpha=0.5, linewidth=1, zorder=1)
        axes.vlines(x, *up, color="grey", alpha=0.5, linewidth=1, zorder=1)
        # Points that lie on each other: the later ones are smaller, so that each shows.
        size = max(24, 110 - 15 * order)
        axes.scatter([x], [y], s=size, marker=_MARKERS[order % len(_MARKERS)], label=label, zorder=3 + order)
        if emphasised:
            axes.scatter([x], [y], s=320, facecolors="none", edgecolors="tab:red", linewidths=2, zorder=2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(alpha=0.3)
    axes.margins(x=0.1)
    if points:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    trained: int,
    title: str,
    log_y: bool = False,
    bands: Bands | None = None,
) -> Figure:
    """One line a name through its (x, y) points; the trained length as a dashed line."""
    figure = Figure(figsize=(8 if len(series) <= _FEW_LINES else 11, 5), layout="constrained")
    axes = figure.subplots()
    draw_lines(axes, series, x, y, trained, log_y, bands)
    axes.set_title(title)
    return figure


def draw_lines(
    axes: "Axes",
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    trained: int,
    log_y: bool = False,
    bands: Bands | None = None,
) -> None:
    """The same into given axes; what is not finite is left out."""
    values: list[float] = []
    bands = bands or {}
    colours = colormaps["tab10" if len(series) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for order, (name, points) in enumerate(series.items()):
        finite = [(at, value) for at, value in points if math.isfinite(value)]
        values += [value for _, value in finite]
        style: dict[str, Any] = {
            "linestyle": _DASHES[order % len(_DASHES)],
            "marker": _MARKERS[order % len(_MARKERS)],
            "color": colours[order % len(colours)],
        }
        # Lines that lie on each other: the later ones are thinner and dashed, so that each shows.
        (line,) = axes.plot(*(zip(*finite, strict=True) if finite else ((), ())), label=name, alpha=0.9,
                  linewidth=max(1.2, 3.5 - order), markersize=max(4, 9 - 2 * order), **style)  # fmt: skip
        if band := bands.get(name):
            _draw_band(axes, band, line.get_color())
    axes.axvline(trained, color="grey", linestyle="--", linewidth=1, label=f"trained: {trained:,}")
    if log_y and values:
        axes.set_yscale("log")
        _label_log_axis(axes, values)
    elif y.endswith("%"):
        axes.set_ylim(-3, 103)  # room for markers at 0 and 100, but no tick beyond
        axes.set_yticks(range(0, 101, 20))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, which="both")
    if len(series) <= _FEW_LINES:
        axes.legend(fontsize="small", framealpha=0.6)
    else:  # on the plot it would cover lines
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")


def _draw_band(axes: "Axes", band: Sequence[tuple[float, float, float]], colour: Any) -> None:
    """The intervals of 95 % around a line's points: bars where they are few, and an area behind them."""
    at, low, high = zip(*band, strict=True)
    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.vlines(at, low, high, color=colour, alpha=0.6, linewidth=1)


_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PALE = (0.15, 0.85)  # shares between which a map is pale enough for black figures
_FEW_LINES = 5  # whose names leave room on the plot
_FEW_TICKS = 1.0  # decades: below, 1, 2 and 5 are too few labels


def _label_log_axis(axes: "Axes", values: Sequence[float]) -> None:
    """At least three labelled ticks, however small the range is."""
    decades = math.log10(max(values) / min(values)) if values and min(values) > 0 else 0.0
    if decades > _FEW_TICKS:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def heat_maps(
    maps: Mapping[str, Sequence[Sequence[float]]],
    columns: Sequence[Any],
    rows: Sequence[Any],
    x: str,
    y: str,
    intervals: Mapping[str, Sequence[Sequence[tuple[float, float] | None]]] | None = None,
) -> Figure:
    """One map a name: shares from 0 to 1 in rows and columns; NaN where nothing was measured.

    intervals: of the shares, written below them.
    """
    width, height = PANEL
    across = min(len(maps), MAPS_ACROSS)
    down = -(-len(maps) // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, shares) in zip(panels, maps.items(), strict=False):
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axes.set_xticks(range(len(columns)), [f"{column:,}" for column in columns])
        axes.set_yticks(range(len(rows)), [str(row) for row in rows])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(name)
        for y_index, row in enumerate(shares):
            for x_index, share in enumerate(row):
                if not math.isnan(share):
                    colour = "black" if _PALE[0] < share < _PALE[1] else "white"
                    text = f"{share:.0%}"
                    bounds = intervals[name][y_index][x_index] if intervals else None
                    if bounds is not None:
                        text += f"\n{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}"
                    axes.text(x_index, y_index, text, ha="center", va="center", fontsize=9, color=colour)
    bar = figure.colorbar(image, ax=list(panels), label="found", format="{x:.0%}")
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
    return figure


def check_name(path: Path) -> str:
    """The kind of picture that the name's ending says. Raises InputError if it is none we draw."""
    kind = path.suffix.lstrip(".").lower()
    if kind not in KINDS:
        raise InputError(f"{path}: a picture's name must end with {', '.join(f'.{k}' for k in KINDS)}")
    return kind


def save(figure: Figure, path: Path) -> None:
    """Writes a picture, whole or not at all."""
    kind = check_name(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        figure.savefig(unfinished, format=kind, dpi=150)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
