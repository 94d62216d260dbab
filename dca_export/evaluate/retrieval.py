"""What passkey and needle have in common: trials over lengths and depths, greedy answers, heat maps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import intervals, running
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.methods import Method, pairs, parse, shares_prefill
from dca_export.evaluate.results import CellProgress, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model
    from dca_runtime.generation.prompt_cache import PromptCache


def plan(
    methods: Sequence[Method], lengths: Sequence[int], depths: Sequence[int], trials: int
) -> list[dict[str, Any]]:
    """One cell a method, length, depth (percent of the text before what is hidden) and trial.

    Ordered so that a prompt shares its start with the one before. Methods that can share prefill
    (``methods.pairs``) take turns on each prompt.
    """
    if max(depths) > 100:
        raise InputError(f"a depth is a percentage of the text, got {max(depths)}")
    return [
        {"method": method.name, "length": length, "depth": depth, "trial": trial}
        for pair in pairs(methods)
        for length in sorted(set(lengths))
        for depth in sorted(set(depths))
        for trial in range(trials)
        for method in pair
    ]


@dataclass
class _Runner:
    """A method's session and what it holds."""

    method: Method
    context: int
    cache: "PromptCache"


class Answerer:
    """Answers prompts greedily, evaluating of each only what no session holds already.

    Keeps the session of the last method; and of the one before, if the two can share prefill: then the
    start of a prompt that is the same to both is copied (``Session.exact_prefix``). So it takes the
    memory of two sessions at most; where two do not fit, of one, and prompts share less. A context manager.
    """

    def __init__(self, model: "Model", context: int, cache_type: str) -> None:
        """``context``: tokens of the longest prompt and its answer."""
        self._model = model
        self._context = context
        self._cache_type = cache_type
        self._runners: list[_Runner] = []  # at most two; the last used is the last
        self._progress: CellProgress = lambda done, total: None
        self.evaluated = 0  # tokens of prompts, so far

    def answer(self, method: str, ids: Sequence[int], tokens: int, progress: CellProgress) -> str:
        """The text of up to ``tokens`` tokens after the prompt ``ids``."""
        from dca_runtime import Sampling
        from dca_runtime.generate import Generation

        parsed = parse(method)
        # What depends on the length is measured at this prompt's, not at the longest one's.
        runner = self._runner(parsed, len(ids) + tokens if parsed.by_length else self._context)
        others = [other.cache for other in self._runners if other is not runner]
        rest = runner.cache.rest(ids, others)
        self._progress = progress
        self._progress_total = len(rest)
        generation = Generation(
            runner.cache.session, self._model.tokenizer, rest, tokens, Sampling(temperature=0.0)
        )
        text = "".join(generation)
        self.evaluated += len(rest)
        return text

    def density(self) -> dict[str, Any]:
        """Of the session that answered last, over all of its prompts (``running.density``)."""
        return running.density(self._runners[-1].cache.session)

    def close(self) -> None:
        """Frees the sessions."""
        while self._runners:
            self._runners.pop().cache.session.close()

    def __enter__(self) -> "Answerer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runner(self, method: Method, context: int) -> _Runner:
        for runner in self._runners:
            if runner.method == method and runner.context == context:
                self._runners.remove(runner)
                self._runners.append(runner)
                return runner
        if self._runners and not shares_prefill(self._runners[-1].method, method):
            self.close()
        while len(self._runners) > 1:
            self._runners.pop(0).cache.session.close()
        self._runners.append(self._open(method, context))
        return self._runners[-1]

    def _open(self, method: Method, context: int) -> _Runner:
        from dca_runtime import DcaError, Status
        from dca_runtime.generation.prompt_cache import PromptCache

        options = {"context": context, "cache_type": self._cache_type, "progress": self._report}
        try:
            session = method.session(self._model, **options)
        except DcaError as error:
            if error.status != Status.MEMORY or not self._runners:
                raise
            self.close()  # without sharing, then
            session = method.session(self._model, **options)
        return _Runner(method, context, PromptCache(session))

    def _report(self, done: int, total: int) -> None:
        if total == self._progress_total:  # the prompt's evaluation, not that of single answer tokens
            self._progress(done, total)


def tables(results: Results, title: str) -> list[Table]:
    """Found of all by length, one row a method; against the first method; for each by depth and length."""
    methods, lengths, depths = (results.values(name) for name in ("method", "length", "depth"))
    lengths, depths = sorted(lengths), sorted(depths)
    seed = results.settings.get("seed")
    drawn = "" if seed is None else f", seed {seed}"
    overview = Table(
        f"{title} (in brackets: 95 % confidence, %, Wilson{drawn})",
        ["tokens", *(f"{length:,}" for length in lengths), "all"],
        [
            [
                method,
                *(_share(results, method=method, length=length) for length in lengths),
                _share(results, method=method),
            ]
            for method in methods
        ],
    )
    by_depth = [
        Table(
            f"{title}: {method}, by depth",
            ["depth", *(f"{length:,}" for length in lengths)],
            [
                [f"{depth} %", *(_share(results, method=method, length=n, depth=depth) for n in lengths)]
                for depth in depths
            ],
        )
        for method in methods
    ]
    return [overview, *_comparison(results, title, methods, lengths), *by_depth]


@dataclass(frozen=True)
class Difference:
    """What a method finds more than another, of the same prompts."""

    value: float  # a share; negative: it finds less
    interval: Interval
    n: int  # prompts that both were asked

    @property
    def differs(self) -> bool:
        """Whether the difference is larger than its noise."""
        return not self.interval.low <= 0 <= self.interval.high


def difference(results: Results, method: str, other: str, **wanted: Any) -> Difference | None:
    """Paired by prompts, over those cells that are as wanted; None if both share none."""
    one, two = (_found_by_prompt(results, name, **wanted) for name in (method, other))
    common = [prompt for prompt in one if prompt in two]
    if not common:
        return None
    first, second = ([found[prompt] for prompt in common] for found in (one, two))
    interval = intervals.paired_shares(first, second)
    return Difference(_mean(first) - _mean(second), interval, len(common))


def _found_by_prompt(results: Results, method: str, **wanted: Any) -> dict[tuple[Any, ...], float]:
    """By what identifies a prompt: all of a cell but its method."""
    return {
        tuple(value for name, value in sorted(cell.items()) if name != "method"): figures_["found"]
        for cell, figures_ in results.cells(method=method, **wanted)
    }


def shown_difference(found: Difference | None) -> str:
    """In percent, as tables show it."""
    if found is None:
        return ""
    low, high = found.interval
    mark = "" if found.differs else "≈ "
    return f"{mark}{100 * found.value:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"


def _comparison(results: Results, title: str, methods: Sequence[str], lengths: Sequence[int]) -> list[Table]:
    """Every method against the first, on the same prompts."""

    def shown(method: str, **wanted: Any) -> str:
        return shown_difference(difference(results, method, methods[0], **wanted))

    rows = [
        [method, *(shown(method, length=length) for length in lengths), shown(method)]
        for method in methods[1:]
    ]
    if not rows:
        return []
    about = (
        f"{title}: more than {methods[0]}, %, paired by prompts (in brackets: 95 % confidence; "
        "≈: not told apart)"
    )
    return [Table(about, ["tokens", *(f"{length:,}" for length in lengths), "all"], rows)]


def draw(results: Results) -> "Figure":
    """A heat map a method: how much was found at each length (across) and depth (down)."""
    from dca_export.evaluate.output import plots

    methods, lengths, depths = (results.values(name) for name in ("method", "length", "depth"))
    lengths, depths = sorted(lengths), sorted(depths)

    def mapped(figure: Callable[..., Any]) -> dict[str, list[list[Any]]]:
        return {
            results.label(method): [
                [figure(results, method=method, length=length, depth=depth) for length in lengths]
                for depth in depths
            ]
            for method in methods
        }

    maps, bounds = mapped(mean_found), mapped(interval)
    return plots.heat_maps(maps, lengths, depths, x="tokens", y="depth, %", intervals=bounds)


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, length and depth, for JSON: trials, mean share found and its interval, the answers;
    and what it is more than the first method's, of the same prompts."""
    methods = results.values("method")
    return [
        {
            "method": method,
            "scheme": results.scheme(method),
            "seed": results.settings.get("seed"),
            "length": length,
            "depth": depth,
            "trials": len(cells),
            "found": _mean(figures_["found"] for _, figures_ in cells),
            "interval": interval(results, method=method, length=length, depth=depth),
            "answers": [figures_["answer"] for _, figures_ in cells],
        }
        | (
            {}
            if method == methods[0]
            else {"against": against(results, method, methods[0], length=length, depth=depth)}
        )
        for method in methods
        for length in sorted(results.values("length"))
        for depth in sorted(results.values("depth"))
        if (cells := list(results.cells(method=method, length=length, depth=depth)))
    ]


def totals(results: Results) -> list[dict[str, Any]]:
    """One entry a method and length, for JSON, over all depths: as ``figures``, without the answers."""
    methods = results.values("method")
    return [
        {
            "method": method,
            "length": length,
            "scheme": results.scheme(method),
            "seed": results.settings.get("seed"),
            "trials": len(list(results.cells(method=method, length=length))),
            "found": mean_found(results, method=method, length=length),
            "interval": interval(results, method=method, length=length),
        }
        | ({} if method == methods[0] else {"against": against(results, method, methods[0], length=length)})
        for method in methods
        for length in sorted(results.values("length", method=method))
    ]


def against(results: Results, method: str, other: str, **wanted: Any) -> dict[str, Any] | None:
    """``difference``, for JSON."""
    found = difference(results, method, other, **wanted)
    if found is None:
        return None
    return {
        "method": other,
        "difference": found.value,
        "interval": found.interval,
        "n": found.n,
        "differs": found.differs,
    }


def interval(results: Results, **wanted: Any) -> Interval | None:
    """Of the share found, over the cells that are as wanted; None if there is none."""
    trials = len(list(results.cells(**wanted)))
    return intervals.wilson(mean_found(results, **wanted), trials) if trials else None


def mean_found(results: Results, **wanted: Any) -> float:
    """Mean share found, over the cells that are as wanted; NaN if there is none."""
    return _mean(figures_["found"] for _, figures_ in results.cells(**wanted))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def _share(results: Results, **wanted: Any) -> str:
    """Found of how many, and the interval in percent."""
    found = [figures_["found"] for _, figures_ in results.cells(**wanted)]
    bounds = interval(results, **wanted)
    if bounds is None:
        return ""
    return f"{sum(found):g}/{len(found)} [{100 * bounds.low:.0f}, {100 * bounds.high:.0f}]"
