"""Which scheme suits a model, a text and a task: tries many, and says what each is good at.

A smaller pretraining length keeps queries nearer to positions the model has seen often and tends to
retrieve better; a larger one keeps more exact distances and tends to predict better. So two figures
decide: perplexity at the longest length and the share of passkeys found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dca_export.evaluate import combined, perplexity, retrieval
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Results, Table
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.05  # how much perplexity above the best a recommended scheme may cost


@dataclass(frozen=True)
class Candidate:
    """One scheme's two figures."""

    method: str
    perplexity: float  # at the longest length
    found: float  # share of the passkeys


def methods(
    lengths: Sequence[int], chunk_shares: Sequence[float], window_shares: Sequence[float]
) -> list[Method]:
    """Plain attention, and every scheme that the grid gives.

    lengths: pretraining lengths c; chunk_shares: s as shares of c; window_shares: w as shares of c − s.
    """
    schemes = []
    for c in lengths:
        for chunk in chunk_shares:
            s = round(c * chunk)
            schemes += [Scheme(s, round((c - s) * window), c) for window in window_shares]
    return [Method("plain"), *(Method("dca", scheme) for scheme in dict.fromkeys(schemes))]


def candidates(results: Results) -> list[Candidate]:
    """The schemes for which both figures are there."""
    prediction, keys = combined.predictions(results), combined.retrievals(results)
    found = []
    for method in prediction.values("method"):
        by_length = perplexity.nll_by_length(prediction, method)
        share = retrieval.mean_found(keys, method=method)
        if parse(method).attention == "dca" and not math.isnan(share):
            found.append(Candidate(method, math.exp(by_length[max(by_length)]), share))
    return found


def recommendations(results: Results) -> dict[str, Candidate]:
    """The best for prediction, the best for retrieval, and the best retriever that predicts well still."""
    tried = candidates(results)
    if not tried:
        return {}
    best = min(tried, key=lambda c: c.perplexity)
    near = [c for c in tried if c.perplexity <= (1 + TOLERANCE) * best.perplexity]
    return {
        "recommended": max(near, key=lambda c: (c.found, -c.perplexity)),
        "best prediction": best,
        "best retrieval": max(tried, key=lambda c: (c.found, -c.perplexity)),
    }


def tables(results: Results) -> list[Table]:
    """Every method's figures, and what is recommended for what."""
    prediction, keys = combined.predictions(results), combined.retrievals(results)
    nlls = {method: perplexity.nll_by_length(prediction, method) for method in prediction.values("method")}
    lengths = sorted({length for row in nlls.values() for length in row})
    chosen = recommendations(results)
    rows = []
    for method, row in nlls.items():
        share = retrieval.mean_found(keys, method=method)
        rows.append(
            [
                method,
                *(perplexity.shown(row.get(length)) for length in lengths),
                "" if math.isnan(share) else f"{share:.0%}",
                ", ".join(name for name, candidate in chosen.items() if candidate.method == method),
            ]
        )
    columns = ["scheme", *(f"perplexity to {length:,}" for length in lengths), "keys found", ""]
    return [
        Table("Schemes (chunk size / local window / pretraining length)", columns, rows),
        *_advice(chosen),
    ]


def _advice(chosen: dict[str, Candidate]) -> list[Table]:
    rows = []
    for name, candidate in chosen.items():
        scheme = parse(candidate.method).scheme
        assert scheme is not None  # a candidate is named by its scheme
        options = (
            f"--chunk-size {scheme.chunk_size} --local-window {scheme.local_window} "
            f"--pretraining-length {scheme.pretraining_length}"
        )
        rows.append([name, f"{candidate.perplexity:.2f}", f"{candidate.found:.0%}", options])
    title = f"Settings for dca-export (recommended: most keys within {TOLERANCE:.0%} of the best perplexity)"
    return [Table(title, ["for", "perplexity", "keys found", "options"], rows)] if rows else []


def figures(results: Results) -> dict[str, Any]:
    """Both experiments' figures and the recommendations, for JSON."""
    chosen = {name: vars(candidate) for name, candidate in recommendations(results).items()}
    return combined.figures(results) | {"recommendations": chosen}


def draw(results: Results) -> "Figure":
    """Each scheme as a point: perplexity to the right, keys found upwards. The best are top left."""
    from dca_export.evaluate import plots

    figure, (axes,) = plots.panels(1, results.header["model"]["file"])
    chosen = recommendations(results)
    for candidate in candidates(results):
        names = [name for name, other in chosen.items() if other == candidate]
        label = candidate.method.removeprefix("dca:") + "".join(f"\n{name}" for name in names)
        plots.draw_point(axes, candidate.perplexity, 100 * candidate.found, label, "recommended" in names)
    axes.set_xlabel("perplexity at the longest length")
    axes.set_ylabel("keys found, %")
    return figure
