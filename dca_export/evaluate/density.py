"""What sparse prefill costs, against how much it reads: perplexity and retrieval by density.

All methods read the same text and answer the same prompts. A method's density is the share of all pairs of
a query and a key before it that were computed. The first method, which is dense unless told otherwise, is
what the others are held against.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dca_export.evaluate import intervals, perplexity, perplexity_bars
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Cell, CellProgress, Results, Table
from dca_export.evaluate.retrieval import Answerer
from dca_export.evaluate.tasks import recall
from dca_export.evaluate.tasks.recall_tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dca_runtime import Model

PREDICTION, RETRIEVAL = "perplexity", "recall"  # the cells' field "part"
PREFILLS = ("sparse:0.01", "sparse:0.03", "sparse:0.1", "sparse:0.3", "sparse:1")  # compared unless told
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")  # of the picture's points, a method each
MOST_RISE = 0.005  # of the perplexity, at which a method still counts as keeping it


def plan(
    methods: Sequence[Method], lengths: Sequence[int], tasks: Sequence[str], trials: int
) -> list[dict[str, Any]]:
    """One pass over the text a length and method, then the prompts, trial after trial: what an interrupted
    run has, it has of every method. Raises InputError for a task not known."""
    asked = recall.plan(methods, lengths, tasks, trials)
    asked.sort(key=lambda cell: (cell["trial"], cell["length"]))  # stable
    return [
        {"part": PREDICTION, "method": method.name, "lengths": [length]}
        for length in sorted(set(lengths))
        for method in methods
    ] + [{"part": RETRIEVAL} | cell for cell in asked]


@dataclass(frozen=True)
class Runner:
    """Measures cells of both parts with what they share."""

    model: "Model"
    ids: np.ndarray  # of the text
    cache_type: str
    prompts: recall.Prompts

    def measure(self, cell: Cell, progress: CellProgress) -> dict[str, Any]:
        """The figures of either part, with the density of its tokens."""
        if cell["part"] == PREDICTION:
            found = perplexity.measure(
                self.model,
                self.ids,
                cell,
                progress,
                window=len(self.ids),
                stride=0,
                cache_type=self.cache_type,
            )
            return found | {"density": _mean_density(found)}
        context = cell["length"] + TASKS[cell["task"]].answer_tokens
        with Answerer(self.model, context, self.cache_type) as answerer:  # whose density is this prompt's
            found = recall.measure(self.prompts, answerer, cell, progress)
            return found | {"density": _mean_density(answerer.density())}


def _mean_density(found: dict[str, Any]) -> float:
    """Over layers and heads that have one (NaN: none has); 1 where prefill is dense."""
    if "density" not in found:
        return 1.0
    known = [value for layer in found["density"] for value in layer if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Point:
    """What a method reads at a length, and what that does to its figures; None: not measured."""

    method: str
    length: int
    density: float | None  # of the text
    nll: float | None
    perplexity: Interval | None
    ratio: perplexity_bars.Ratio | None  # of the perplexity to the first method's
    prompts: int
    prompts_density: float | None
    found: float | None  # share of the answers, over all tasks
    found_interval: Interval | None
    difference: Interval | None  # of found to the first method's, of the same prompts

    @property
    def keeps(self) -> bool | None:
        """Whether perplexity rises by MOST_RISE at most and retrieval is not told apart from the first
        method's; None for that one, and where something was not measured."""
        if self.ratio is None or self.difference is None:
            return None
        return self.ratio.value <= 1 + MOST_RISE and self.difference.low <= 0 <= self.difference.high


def points(results: Results) -> list[Point]:
    """One a method and length, in the order they were measured."""
    methods = results.values("method")
    lengths = {cell["lengths"][0] for cell, _ in results.cells(part=PREDICTION)}
    lengths |= set(results.values("length"))
    text, prompts = results.part(part=PREDICTION), results.part(part=RETRIEVAL)
    return [_point(text, prompts, method, methods[0], n) for n in sorted(lengths) for method in methods]


def _point(text: Results, prompts: Results, method: str, first: str, length: int) -> Point:
    passes = [figures_ for _, figures_ in text.cells(method=method, lengths=[length])]
    of_text = Results(text.header)
    for cell, figures_ in text.cells(lengths=[length]):
        of_text.add(cell, figures_)
    asked = [figures_ for _, figures_ in prompts.cells(method=method, length=length)]
    found = float(np.mean([each["found"] for each in asked])) if asked else None
    return Point(
        method=method,
        length=length,
        density=passes[0]["density"] if passes else None,
        nll=passes[0]["lengths"][0][1] if passes else None,
        perplexity=perplexity_bars.of_perplexity(perplexity_bars.at_length(of_text, method, length)),
        ratio=None if method == first else perplexity_bars.ratio(of_text, method, first, length),
        prompts=len(asked),
        prompts_density=float(np.mean([each["density"] for each in asked])) if asked else None,
        found=found,
        found_interval=None if found is None else intervals.wilson(found, len(asked)),
        difference=None if method == first else _difference(prompts, method, first, length),
    )


def _difference(prompts: Results, method: str, first: str, length: int) -> Interval | None:
    """Of the shares found, paired by prompts; None where both were asked none, or the first method found
    nothing: then none can find less."""
    one, two = (
        {
            (cell["task"], cell["trial"]): found["found"]
            for cell, found in prompts.cells(method=name, length=length)
        }
        for name in (method, first)
    )
    common = [prompt for prompt in one if prompt in two]
    if not any(two[prompt] for prompt in common):
        return None
    return intervals.paired_shares([one[p] for p in common], [two[p] for p in common])


def tables(results: Results) -> list[Table]:
    """A table a length: what each method reads, and its figures beside the first method's; and what was found
    of each task."""
    found = points(results)
    first = results.values("method")[0]
    made = []
    for length in dict.fromkeys(point.length for point in found):
        tasks = results.values("task", length=length)
        rows = [_row(results, point, tasks) for point in found if point.length == length]
        columns = ["method", "density", "perplexity", f"against {first}"]
        columns += ["density of prompts", "found", "difference", *tasks, "keeps both"] if tasks else []
        title = (
            f"{length:,} tokens (in brackets: 95 % confidence; keeps both: perplexity at most "
            f"{MOST_RISE:.1%} above {first}'s, retrieval not told apart from its)"
        )
        made.append(Table(title, columns, rows))
    return made


def _row(results: Results, point: Point, tasks: Sequence[str]) -> list[str]:
    row = [point.method, _percent(point.density), perplexity.shown(point.nll, point.perplexity)]
    row.append("" if point.ratio is None else _signed(point.ratio.value - 1, point.ratio.interval, 1, 2))
    if not tasks:
        return row
    row += [_percent(point.prompts_density), _share(point.found, point.found_interval)]
    row.append("" if point.difference is None else _signed(None, point.difference, 0, 0))
    for task in tasks:
        asked = [
            each["found"] for _, each in results.cells(method=point.method, length=point.length, task=task)
        ]
        row.append(f"{sum(asked):.3g}/{len(asked)}" if asked else "")
    return [*row, {True: "yes", False: "no", None: ""}[point.keeps]]


def _percent(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else f"{share:.1%}"


def _share(share: float | None, interval: Interval | None) -> str:
    if share is None or interval is None:
        return ""
    return f"{share:.0%} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _signed(value: float | None, interval: Interval, around: float, digits: int) -> str:
    """ "+0.44 % [+0.10, +0.80]": a change in percent, the interval's bounds less `around`."""
    low, high = (f"{100 * (bound - around):+.{digits}f}" for bound in interval)
    shown = "" if value is None else f"{100 * value:+.{digits}f} % "
    return f"{shown}[{low}, {high}]"


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method and length, for JSON."""
    return [
        {
            "method": point.method,
            "length": point.length,
            "density": point.density,
            "perplexity": None if point.nll is None else perplexity.exp(point.nll),
            "interval": point.perplexity,
            "ratio": None if point.ratio is None else point.ratio.value,
            "ratio_interval": None if point.ratio is None else point.ratio.interval,
            "prompts": point.prompts,
            "prompts_density": point.prompts_density,
            "found": point.found,
            "found_interval": point.found_interval,
            "difference_interval": point.difference,
            "keeps": point.keeps,
        }
        for point in points(results)
    ]


class Mark(NamedTuple):
    """A point of the picture."""

    density: float
    value: float  # percent
    low: float
    high: float
    name: str


def draw(results: Results) -> "Figure":
    """What perplexity rises by on the left and what is found on the right, each against the density."""
    from dca_export.evaluate.output import plots

    figure, (left, right) = plots.panels(2, results.header["model"]["file"])
    found = points(results)
    names = dict.fromkeys(_prefill(point.method) for point in found)
    shapes = dict(zip(names, itertools.cycle(_SHAPES), strict=False))
    for length in dict.fromkeys(point.length for point in found):
        of_length = [point for point in found if point.length == length]
        rises = [
            Mark(point.density, *_rise(point), _prefill(point.method))
            for point in of_length
            if point.density is not None and (point.ratio is not None or point.method == of_length[0].method)
        ]
        shares = [
            Mark(
                point.prompts_density,
                100 * point.found,
                100 * bounds.low,
                100 * bounds.high,
                _prefill(point.method),
            )
            for point in of_length
            if point.found is not None
            and point.prompts_density is not None
            and (bounds := point.found_interval) is not None
        ]
        for axes, marks in ((left, rises), (right, shares)):
            _draw_marks(axes, marks, f"{length:,} tokens", shapes)
    left.axhline(100 * MOST_RISE, color="grey", linestyle="--", linewidth=1, label=f"+{MOST_RISE:.1%}")
    left.set_ylabel(f"perplexity against {results.values('method')[0]}, %")
    right.set_ylabel("answers found, %")
    right.set_ylim(-3, 103)
    for axes in (left, right):
        axes.set_xlabel("density: pairs of query and key computed, %")
        axes.grid(alpha=0.3)
    for name, shape in shapes.items():
        left.plot([], [], color="grey", marker=shape, linestyle="", label=name)
    left.legend(fontsize="small", framealpha=0.6)
    return figure


def _rise(point: Point) -> tuple[float, float, float]:
    """In percent, with its interval; of the first method 0."""
    if point.ratio is None:
        return 0.0, 0.0, 0.0
    low, high = point.ratio.interval
    return 100 * (point.ratio.value - 1), 100 * (low - 1), 100 * (high - 1)


def _prefill(method: str) -> str:
    return parse(method).prefill or "dense"


def _draw_marks(axes: "Axes", marks: Sequence[Mark], label: str, shapes: Mapping[str, str]) -> None:
    """A line through the points along the density, each in its method's shape, and their intervals."""
    finite = sorted(mark for mark in marks if math.isfinite(mark.value) and math.isfinite(mark.density))
    if not finite:
        return
    at = [100 * mark.density for mark in finite]
    (line,) = axes.plot(at, [mark.value for mark in finite], label=label)
    colour = line.get_color()
    axes.vlines(at, [mark.low for mark in finite], [mark.high for mark in finite], color=colour, alpha=0.5)
    for x, mark in zip(at, finite, strict=True):
        axes.plot([x], [mark.value], color=colour, marker=shapes[mark.name], linestyle="")
