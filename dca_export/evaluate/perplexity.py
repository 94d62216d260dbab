"""Perplexity against length: does the model still predict text beyond its trained context?

One pass over the text gives every length at once: the mean over windows of the text (where it starts
to fail) and the mean up to each length (the paper's Tables 1 and 2 for one long document). With a stride
it is measured as the paper does: for each length a context of that many tokens slides over the text by
the stride, and each token is scored once, by the first context that reaches it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Cell, CellProgress, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model

MARK = "!"  # a cell that rose more than RISE above the trained length
RISE = 1.0


def plan(methods: Sequence[Method], lengths: Sequence[int], stride: int) -> list[dict[str, Any]]:
    """The cells: one pass a method, or with a stride one a method and length. Raises InputError."""
    lengths = sorted(set(lengths))
    if lengths[0] < 2 or stride >= lengths[0]:
        raise InputError(f"a length must be above 1 and above the stride {stride}, got {lengths[0]}")
    if stride:
        return [{"method": m.name, "length": length} for m in methods for length in lengths]
    return [{"method": m.name, "lengths": lengths} for m in methods]


def measure(
    model: "Model",
    ids: np.ndarray,
    cell: Cell,
    progress: CellProgress,
    *,
    window: int,
    stride: int,
    cache_type: str,
) -> dict[str, Any]:
    """Scores ``ids`` (all of them, whatever the cell's lengths) as the cell says.

    One pass: {"lengths": [[length, mean nll]], "windows": [[start, end, mean nll]]}; with a stride
    {"nll": mean, "tokens": scored}. Means of -log p, natural logarithm, over the tokens predicted.
    """
    method = parse(cell["method"])
    if stride:
        nll = _sliding(model, method, ids, cell["length"], stride, cache_type, progress)
        return {"nll": float(nll.mean()), "tokens": len(nll)}
    longest = max(cell["lengths"])
    with method.session(model, context=longest, cache_type=cache_type, progress=progress) as session:
        nll = session.score(ids[:longest]).astype(np.float64)
    # nll[i] is the score of token i + 1, so the tokens [start, end) are nll[start - 1 : end - 1].
    windows = [
        [start, end, float(nll[max(start - 1, 0) : end - 1].mean())]
        for start in range(0, longest, window)
        for end in [min(start + window, longest)]
        if end - max(start, 1) > 0
    ]
    lengths = [[length, float(nll[: length - 1].mean())] for length in cell["lengths"]]
    return {"lengths": lengths, "windows": windows}


def _sliding(
    model: "Model",
    method: Method,
    ids: np.ndarray,
    length: int,
    stride: int,
    cache_type: str,
    progress: CellProgress,
) -> np.ndarray:
    scores = []
    starts = range(0, max(len(ids) - length, 0) + 1, stride)
    with method.session(model, context=length, cache_type=cache_type) as session:
        for index, start in enumerate(starts):
            progress(index, len(starts))
            session.truncate(0)
            context = ids[start : start + length]
            if index == 0:
                scores.append(session.score(context))
            else:
                # Only the last `stride` tokens are new; the context before them needs no logits.
                if len(before := context[: -stride - 1]):
                    session.append(before)
                scores.append(session.score(context[-stride - 1 :]))
    return np.concatenate(scores).astype(np.float64)


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, for JSON: mean nll and perplexity at each length, and of each window.

    "risen" marks a length whose perplexity is more than RISE above that within the trained length.
    """
    entries = []
    trained = results.header["model"]["context_length"]
    for method in results.values("method"):
        limit = _limit(results, method, trained)
        lengths = [
            {"length": length, "nll": nll, "perplexity": math.exp(nll)}
            | {"risen": length > trained and math.exp(nll) > limit}
            for length, nll in sorted(nll_by_length(results, method).items())
        ]
        windows = [
            {"start": start, "end": end, "nll": nll, "perplexity": math.exp(nll)}
            for start, end, nll in _windows(results, method)
        ]
        entries.append({"method": method, "lengths": lengths, "windows": windows})
    return entries


def tables(results: Results) -> list[Table]:
    """Perplexity by length, one row a method; and by window, if the text was read in one pass."""
    methods = results.values("method")
    by_length = {method: nll_by_length(results, method) for method in methods}
    lengths = sorted({length for row in by_length.values() for length in row})
    trained = results.header["model"]["context_length"]
    rows = [
        [method, *_marked(by_length[method], lengths, trained, _limit(results, method, trained))]
        for method in methods
    ]
    overview = Table(
        f"Perplexity up to each length ({MARK}: more than {RISE:g} above the trained {trained:,})",
        ["tokens", *(f"{length:,}" for length in lengths)],
        rows,
    )
    windows = {method: {(s, e): nll for s, e, nll in _windows(results, method)} for method in methods}
    spans = sorted({span for row in windows.values() for span in row})
    if not spans:
        return [overview]
    rows = [
        [f"{start:,} – {end:,}", *(shown(windows[method].get((start, end))) for method in methods)]
        for start, end in spans
    ]
    return [overview, Table("Perplexity of each window", ["tokens", *methods], rows)]


def draw(results: Results) -> "Figure":
    """Perplexity of each window, or with a stride at each length, against the position; log scale."""
    from dca_export.evaluate import plots

    return plots.lines(
        curves(results),
        x="tokens",
        y="perplexity",
        trained=results.header["model"]["context_length"],
        title=f"{results.header['model']['file']} on {results.settings['text']}",
        log_y=True,
    )


def curves(results: Results) -> dict[str, list[tuple[float, float]]]:
    """(position, perplexity) of each window by method; with a stride, of each length."""
    series = {}
    for method in results.values("method"):
        windows = _windows(results, method)
        points = [(end, nll) for _, end, nll in windows] or sorted(nll_by_length(results, method).items())
        series[method] = [(float(position), math.exp(nll)) for position, nll in points]
    return series


def nll_by_length(results: Results, method: str) -> dict[int, float]:
    """Mean nll up to each length."""
    found: dict[int, float] = {}
    for cell, figures_ in results.cells(method=method):
        if "lengths" in figures_:
            found |= {length: nll for length, nll in figures_["lengths"]}
        else:
            found[cell["length"]] = figures_["nll"]
    return found


def _windows(results: Results, method: str) -> list[tuple[int, int, float]]:
    """Of the longest pass."""
    passes = [figures_.get("windows", []) for _, figures_ in results.cells(method=method)]
    return [tuple(window) for window in max(passes, key=len, default=[])]


def _limit(results: Results, method: str, trained: int) -> float:
    """The perplexity above which a length beyond the trained one counts as risen; infinite if nothing tells.

    RISE above that of the longest length within the trained one, or of the windows that lie in it.
    """
    row = nll_by_length(results, method)
    within = [length for length in row if length <= trained]
    if within:
        return math.exp(row[max(within)]) + RISE
    windows = [(end - start, nll) for start, end, nll in _windows(results, method) if end <= trained]
    if not windows:
        return math.inf
    return math.exp(sum(n * nll for n, nll in windows) / sum(n for n, _ in windows)) + RISE


def _marked(row: dict[int, float], lengths: list[int], trained: int, limit: float) -> list[str]:
    texts = []
    for length in lengths:
        nll = row.get(length)
        risen = nll is not None and length > trained and math.exp(nll) > limit
        texts.append(shown(nll) + (f" {MARK}" if risen else ""))
    return texts


def shown(nll: float | None) -> str:
    """The perplexity as tables show it; "" if it was not measured."""
    if nll is None:
        return ""
    value = math.exp(nll)
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
