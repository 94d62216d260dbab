"""What passkey and needle have in common: trials over lengths and depths, greedy answers, heat maps."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import CellProgress, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model


def plan(
    methods: Sequence[Method], lengths: Sequence[int], depths: Sequence[int], trials: int
) -> list[dict[str, Any]]:
    """One cell a method, length, depth (percent of the text before what is hidden) and trial."""
    if max(depths) > 100:
        raise InputError(f"a depth is a percentage of the text, got {max(depths)}")
    return [
        {"method": method.name, "length": length, "depth": depth, "trial": trial}
        for method in methods
        for length in sorted(set(lengths))
        for depth in sorted(set(depths))
        for trial in range(trials)
    ]


class Answerer:
    """Answers prompts greedily, evaluating of each only what differs from the one before.

    Holds one session, for the method of the last prompt. A context manager.
    """

    def __init__(self, model: "Model", context: int, cache_type: str) -> None:
        """``context``: tokens of the longest prompt and its answer."""
        self._model = model
        self._context = context
        self._cache_type = cache_type
        self._method: str | None = None
        self._progress: CellProgress = lambda done, total: None

    def answer(self, method: str, ids: Sequence[int], tokens: int, progress: CellProgress) -> str:
        """The text of up to ``tokens`` tokens after the prompt ``ids``."""
        from dca_runtime import Sampling
        from dca_runtime.generate import Generation

        if method != self._method:
            self._open(method)
        self._progress = progress
        rest = self._cache.rest(ids)
        self._progress_total = len(rest)
        generation = Generation(self._session, self._model.tokenizer, rest, tokens, Sampling(temperature=0.0))
        text = "".join(generation)
        self._cache.record([*ids, *generation.ids])
        return text

    def close(self) -> None:
        """Frees the session."""
        if self._method is not None:
            self._session.close()
            self._method = None

    def __enter__(self) -> "Answerer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, method: str) -> None:
        from dca_runtime.prompt_cache import PromptCache

        self.close()
        self._session = parse(method).session(
            self._model, context=self._context, cache_type=self._cache_type, progress=self._report
        )
        self._cache = PromptCache(self._session)
        self._method = method

    def _report(self, done: int, total: int) -> None:
        if total == self._progress_total:  # the prompt's evaluation, not that of single answer tokens
            self._progress(done, total)


def tables(results: Results, title: str) -> list[Table]:
    """Found of all by length, one row a method; and for each method by depth and length."""
    methods, lengths, depths = (results.values(name) for name in ("method", "length", "depth"))
    lengths, depths = sorted(lengths), sorted(depths)
    overview = Table(
        title,
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
    return [overview, *by_depth]


def draw(results: Results) -> "Figure":
    """A heat map a method: how much was found at each length (across) and depth (down)."""
    from dca_export.evaluate import plots

    methods, lengths, depths = (results.values(name) for name in ("method", "length", "depth"))
    lengths, depths = sorted(lengths), sorted(depths)
    maps = {
        method: [
            [mean_found(results, method=method, length=length, depth=depth) for length in lengths]
            for depth in depths
        ]
        for method in methods
    }
    return plots.heat_maps(maps, lengths, depths, x="tokens", y="depth, %")


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, length and depth, for JSON: trials, mean share found, the answers."""
    return [
        {
            "method": method,
            "length": length,
            "depth": depth,
            "trials": len(cells),
            "found": _mean(figures_["found"] for _, figures_ in cells),
            "answers": [figures_["answer"] for _, figures_ in cells],
        }
        for method in results.values("method")
        for length in sorted(results.values("length"))
        for depth in sorted(results.values("depth"))
        if (cells := list(results.cells(method=method, length=length, depth=depth)))
    ]


def mean_found(results: Results, **wanted: Any) -> float:
    """Mean share found, over the cells that are as wanted; NaN if there is none."""
    return _mean(figures_["found"] for _, figures_ in results.cells(**wanted))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def _share(results: Results, **wanted: Any) -> str:
    found = [figures_["found"] for _, figures_ in results.cells(**wanted)]
    return f"{sum(found):g}/{len(found)}" if found else ""
