"""Perplexity against length: does the model still predict text beyond its trained context?

One pass over the text gives every length at once: the mean over windows of the text (where it starts
to fail) and the mean up to each length (the paper's Tables 1 and 2 for one long document). With a stride
it is measured as the paper does: for each length a context of that many tokens slides over the text by
the stride, and each token is scored once, by the first context that reaches it; the last context ends
where the text does.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import intervals, perplexity_bars, running
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Cell, CellProgress, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model

MARK = "!"  # a cell that rose more than RISE above the trained length
RISE = 1.0
WINDOWS = "Perplexity of each window"


def exp(nll: float) -> float:
    """The perplexity of a mean nll; infinite where it is beyond floating point."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def plan(methods: Sequence[Method], lengths: Sequence[int], stride: int) -> list[dict[str, Any]]:
    """The cells: one pass a method, or with a stride one a method and length, as for methods that depend on
    the length. Raises InputError."""
    lengths = sorted(set(lengths))
    if lengths[0] < 2 or stride >= lengths[0]:
        raise InputError(f"a length must be above 1 and above the stride {stride}, got {lengths[0]}")
    if stride:
        return [{"method": m.name, "length": length} for m in methods for length in lengths]
    passes = [(m, [[n] for n in lengths] if m.by_length else [lengths]) for m in methods]
    return [{"method": m.name, "lengths": each} for m, cut in passes for each in cut]


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
    {"nll": mean, "tokens": scored}; either with the "blocks" of ``perplexity_bars``. Means of -log p, natural
    logarithm, over the tokens predicted.
    """
    method = parse(cell["method"])
    if stride:
        nll = _sliding(model, method, ids, cell["length"], stride, cache_type, progress)
        return {
            "nll": float(nll.mean()),
            "tokens": len(nll),
            "blocks": perplexity_bars.measured(nll, len(ids), [cell["length"]]),
        }
    longest = max(cell["lengths"])
    with method.session(model, context=longest, cache_type=cache_type, progress=progress) as session:
        nll = session.score(ids[:longest]).astype(np.float64)
        density = running.density(session)
    # nll[i] is the score of token i + 1, so the tokens [start, end) are nll[start - 1 : end - 1].
    windows = [
        [start, end, float(nll[max(start - 1, 0) : end - 1].mean())]
        for start in range(0, longest, window)
        for end in [min(start + window, longest)]
        if end - max(start, 1) > 0
    ]
    lengths = [[length, float(nll[: length - 1].mean())] for length in cell["lengths"]]
    borders = [*cell["lengths"], *range(window, longest, window)]
    return {
        "lengths": lengths,
        "windows": windows,
        "blocks": perplexity_bars.measured(nll, len(ids), borders),
    } | density


def _sliding(
    model: "Model",
    method: Method,
    ids: np.ndarray,
    length: int,
    stride: int,
    cache_type: str,
    progress: CellProgress,
) -> np.ndarray:
    scores: list[np.ndarray] = []
    contexts = _contexts(len(ids), length, stride)
    with method.session(model, context=length, cache_type=cache_type) as session:
        for index, (start, scored) in enumerate(contexts):
            progress(index, len(contexts))
            session.truncate(0)
            context = ids[start : start + length]
            if scored < len(context) - 1:  # the tokens before need no logits
                session.append(context[: -scored - 1])
            scores.append(session.score(context[-scored - 1 :]))
    return np.concatenate(scores).astype(np.float64)


def _contexts(tokens: int, length: int, stride: int) -> list[tuple[int, int]]:
    """(start, how many of its last tokens are scored) of each context; every token but the first is, once.

    The last context ends where the text does, however few tokens are new in it.
    """
    contexts = [(0, min(length, tokens) - 1)]
    end = length
    while end < tokens:
        step = min(stride, tokens - end)
        end += step
        contexts.append((end - length, step))
    return contexts


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, for JSON: mean nll and perplexity at each length, and of each window.

    "risen" marks a length whose perplexity is more than RISE above that within the trained length.
    "interval" is the perplexity's, of 95 % confidence, None where the text has too few "blocks" for one;
    "against" compares with the first method, on the same blocks.
    """
    entries = []
    trained = results.header["model"]["context_length"]
    methods = results.values("method")
    for method in methods:
        limit = _limit(results, method)
        lengths = [
            {"length": length, "nll": nll, "perplexity": exp(nll), "tokens": _count(results, method, length)}
            | {"risen": length > trained and not exp(nll) <= limit}
            | _sure(perplexity_bars.at_length(results, method, length))
            | ({} if method == methods[0] else {"against": _against(results, method, methods[0], length)})
            for length, nll in sorted(nll_by_length(results, method).items())
        ]
        windows = [
            {"start": start, "end": end, "nll": nll, "perplexity": exp(nll)}
            | _sure(_window_blocks(results, method, start, end))
            for start, end, nll in windows_of(results, method)
        ]
        entry = {"method": method, "scheme": results.scheme(method), "seed": intervals.SEED}
        entries.append(entry | {"lengths": lengths, "windows": windows} | _density(results, method))
    return entries


def _sure(blocks: perplexity_bars.Blocks) -> dict[str, Any]:
    return {"blocks": len(blocks.nll), "interval": perplexity_bars.of_perplexity(blocks)}


def _against(results: Results, method: str, other: str, length: int) -> dict[str, Any]:
    ratio = perplexity_bars.ratio(results, method, other, length)
    if ratio is None:
        return {"method": other, "ratio": None, "interval": None, "differs": None}
    return {"method": other, "ratio": ratio.value, "interval": ratio.interval, "differs": ratio.differs}


def _window_blocks(results: Results, method: str, start: int, end: int) -> perplexity_bars.Blocks:
    longest = max(nll_by_length(results, method))
    return perplexity_bars.blocks(results, method, longest).between(start, end)


def tables(results: Results) -> list[Table]:
    """Perplexity by length, one row a method; against the first method; and by window, if the text was read
    in one pass."""
    methods = results.values("method")
    by_length = {method: nll_by_length(results, method) for method in methods}
    lengths = sorted({length for row in by_length.values() for length in row})
    trained = results.header["model"]["context_length"]
    rows = [
        [method, *_marked(results, method, lengths, trained, _limit(results, method))] for method in methods
    ]
    scored = sorted(_scored(results))
    what = (
        f"Perplexity with a context of each length, over {' to '.join(f'{n:,}' for n in scored)} tokens"
        if scored
        else "Perplexity up to each length"
    )
    overview = Table(
        f"{what} ({MARK}: more than {RISE:g} above the trained {trained:,}{_bars_note(results)})",
        ["tokens", *(f"{length:,}" for length in lengths)],
        rows,
    )
    compared = _comparison(results, methods, lengths)
    by_window = {method: {(s, e): nll for s, e, nll in windows_of(results, method)} for method in methods}
    spans = sorted({span for row in by_window.values() for span in row})
    if not spans:
        return [overview, *compared]
    rows = [
        [
            f"{start:,} – {end:,}",
            *(
                shown(by_window[method].get((start, end)), _window_interval(results, method, start, end))
                for method in methods
            ),
        ]
        for start, end in spans
    ]
    return [overview, *compared, Table(WINDOWS, ["tokens", *methods], rows)]


def _bars_note(results: Results) -> str:
    """What the brackets are, where there are blocks."""
    if not any(figures_.get("blocks") for _, figures_ in results.cells()):
        return ""
    return f"; in brackets: 95 % confidence, block bootstrap, seed {intervals.SEED}"


def _window_interval(results: Results, method: str, start: int, end: int) -> Interval | None:
    return perplexity_bars.of_perplexity(_window_blocks(results, method, start, end))


def _comparison(results: Results, methods: Sequence[str], lengths: Sequence[int]) -> list[Table]:
    """Every method against the first, on the same blocks of the text; nothing if none can be."""
    rows = []
    for method in methods[1:]:
        ratios = [perplexity_bars.ratio(results, method, methods[0], length) for length in lengths]
        if any(ratios):
            rows.append([method, *("" if ratio is None else _ratio(ratio) for ratio in ratios)])
    if not rows:
        return []
    title = (
        f"Perplexity against {methods[0]}, paired by blocks of the text (in brackets: 95 % confidence; "
        "≈: not told apart)"
    )
    return [Table(title, ["tokens", *(f"{length:,}" for length in lengths)], rows)]


def _ratio(ratio: perplexity_bars.Ratio) -> str:
    def times(value: float) -> str:
        return f"{value:.3g}" if value < 0.1 or value >= 10 else f"{value:.3f}"

    low, high = map(times, ratio.interval)
    return f"{'' if ratio.differs else '≈ '}×{times(ratio.value)} [{low}, {high}]"


def draw(results: Results) -> "Figure":
    """Perplexity of each window, or with a stride at each length, against the position; log scale."""
    from dca_export.evaluate.output import plots

    return plots.lines(
        curves(results),
        x="tokens",
        y="perplexity",
        trained=results.header["model"]["context_length"],
        title=f"{results.header['model']['file']} on {results.settings['text']}",
        log_y=True,
        bands=bands(results),
    )


def curves(results: Results) -> dict[str, list[tuple[float, float]]]:
    """(position, perplexity) of each window by method; with a stride, of each length."""
    series = {}
    for method in results.values("method"):
        windows = windows_of(results, method)
        points = [(end, nll) for _, end, nll in windows] or sorted(nll_by_length(results, method).items())
        series[results.label(method)] = [(float(position), exp(nll)) for position, nll in points]
    return series


def bands(results: Results) -> dict[str, list[tuple[float, float, float]]]:
    """(position, low, high) of the intervals of those points of ``curves`` that have one."""
    found = {}
    for entry in figures(results):
        points = [(w["end"], w["interval"]) for w in entry["windows"]]
        points = points or [(n["length"], n["interval"]) for n in entry["lengths"]]
        found[results.label(entry["method"])] = [
            (float(position), *interval) for position, interval in points if interval is not None
        ]
    return found


def nll_by_length(results: Results, method: str) -> dict[int, float]:
    """Mean nll up to each length."""
    found: dict[int, float] = {}
    for cell, figures_ in results.cells(method=method):
        if "lengths" in figures_:
            found |= {length: nll for length, nll in figures_["lengths"]}
        else:
            found[cell["length"]] = figures_["nll"]
    return found


def _count(results: Results, method: str, length: int) -> int:
    """How many tokens the mean at a length is of."""
    sliding = [figures_["tokens"] for _, figures_ in results.cells(method=method, length=length)]
    return sliding[0] if sliding else length - 1


def _density(results: Results, method: str) -> dict[str, Any]:
    """Of sparse prefill in one pass, by layer and head."""
    for _, figures_ in results.cells(method=method):
        if "density" in figures_:
            return {"density": figures_["density"]}
    return {}


def _scored(results: Results) -> set[int]:
    """How many tokens each sliding context scored; nothing for one pass."""
    return {figures_["tokens"] for _, figures_ in results.cells() if "tokens" in figures_}


def windows_of(results: Results, method: str) -> list[tuple[int, int, float]]:
    """Of the longest pass."""
    passes = [figures_.get("windows", []) for _, figures_ in results.cells(method=method)]
    longest: list[Any] = max(passes, key=lambda windows: windows[-1][1] if windows else 0, default=[])
    return [tuple(window) for window in longest]


def within_trained(results: Results, method: str) -> float | None:
    """Mean nll of the longest length within the trained one, or of the windows that lie in it; None if
    neither was measured."""
    trained = results.header["model"]["context_length"]
    row = nll_by_length(results, method)
    within = [length for length in row if length <= trained]
    if within:
        return row[max(within)]
    spans = [(end - start, nll) for start, end, nll in windows_of(results, method) if end <= trained]
    return sum(n * nll for n, nll in spans) / sum(n for n, _ in spans) if spans else None


def _limit(results: Results, method: str) -> float:
    """The perplexity above which a length beyond the trained one counts as risen; infinite if none."""
    within = within_trained(results, method)
    return math.inf if within is None else exp(within) + RISE


def _marked(results: Results, method: str, lengths: list[int], trained: int, limit: float) -> list[str]:
    row, texts = nll_by_length(results, method), []
    for length in lengths:
        nll = row.get(length)
        risen = nll is not None and length > trained and not exp(nll) <= limit
        interval = perplexity_bars.of_perplexity(perplexity_bars.at_length(results, method, length))
        texts.append(shown(nll, interval) + (f" {MARK}" if risen else ""))
    return texts


def shown(nll: float | None, interval: Interval | None = None) -> str:
    """The perplexity as tables show it, and its interval; "" if it was not measured."""
    if nll is None:
        return ""
    value = exp(nll)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "overflow"
    bounds = "" if interval is None else f" [{_figure(interval.low)}, {_figure(interval.high)}]"
    return _figure(value) + bounds


def _figure(perplexity: float) -> str:
    return f"{perplexity:,.2f}" if perplexity < 100 else f"{perplexity:,.0f}"
