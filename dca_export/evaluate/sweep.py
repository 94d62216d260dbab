"""Which scheme suits a model, a text and a task: tries many, and says what each is good at.

A smaller pretraining length keeps queries nearer to positions the model has seen often and tends to
retrieve better; a larger one keeps more exact distances and tends to predict better. So two figures
decide: perplexity at the longest common length and the share of passkeys found. Both are compared on what
two schemes were both given, blocks of the text and prompts, and a difference counts as one where it is
larger than its noise.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dca_export.evaluate import combined, intervals, perplexity, perplexity_bars, retrieval
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Results, Table
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.05  # how much perplexity above the best a recommended scheme may cost

# With one passkey of each kind and fewer than this, finding all and finding none are not told apart: the
# intervals of 0 of 3 and 3 of 3 (``interval``) overlap.
FEWEST_OF_ONE_TRIAL = 4


@dataclass(frozen=True)
class Candidate:
    """One scheme's two figures."""

    method: str
    perplexity: float  # at the length of the ranking
    found: float  # share of the passkeys
    keys: int  # passkeys asked for
    by_key: tuple[float, ...] = ()  # found or not, in an order that all candidates of a ranking share
    perplexity_interval: Interval | None = None  # None: the text is too short to tell
    cost: perplexity_bars.Ratio | None = None  # of the best perplexity, paired by blocks; the same for None

    @property
    def interval(self) -> Interval:
        """Where the share found would lie with many more passkeys, with 95 % confidence."""
        return intervals.wilson(self.found, self.keys)

    def finds_as(self, other: "Candidate") -> bool:
        """Whether the passkeys do not tell the two apart."""
        low, high = intervals.paired_shares(self.by_key, other.by_key)
        return low <= 0 <= high


@dataclass(frozen=True)
class Ranking:
    """The schemes that can be compared: measured to the same length, asked for the same passkeys."""

    length: int  # tokens that the perplexity is of
    candidates: list[Candidate]
    left_out: list[str]  # schemes that lack some of it, or whose perplexity is not finite
    one_trial: bool  # no length and depth was tried twice

    @property
    def tells_retrieval(self) -> bool:
        """Whether the passkeys are enough to choose by."""
        keys = self.candidates[0].keys if self.candidates else 0
        return len(self.candidates) == 1 or keys >= FEWEST_OF_ONE_TRIAL or (keys > 1 and not self.one_trial)


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


def ranking(results: Results) -> Ranking:
    """The schemes compared like with like.

    The length is the one to which most schemes were measured, of those the longest; the passkeys are those
    that most of these schemes were asked for.
    """
    prediction, keys = combined.predictions(results), combined.retrievals(results)
    schemes = [name for name in prediction.values("method") if parse(name).attention == "dca"]
    nlls = {
        name: {n: nll for n, nll in perplexity.nll_by_length(prediction, name).items() if _is_usable(nll)}
        for name in schemes
    }
    asked = {
        name: {(cell["length"], cell["depth"], cell["trial"]): figures_["found"] for cell, figures_ in found}
        for name in schemes
        if nlls[name] and (found := list(keys.cells(method=name)))
    }
    lengths = Counter(length for name in asked for length in nlls[name])
    if not lengths:
        return Ranking(0, [], schemes, True)
    length = max(lengths, key=lambda each: (lengths[each], each))
    measured = [name for name in asked if length in nlls[name]]
    counts = Counter(key for name in measured for key in asked[name])
    common = [key for key, count in counts.items() if count == max(counts.values())]
    compared = [name for name in measured if all(key in asked[name] for key in common)]
    best = min(compared, key=lambda name: nlls[name][length])
    candidates = [
        Candidate(
            name,
            perplexity.exp(nlls[name][length]),
            sum(asked[name][key] for key in common) / len(common),
            len(common),
            tuple(asked[name][key] for key in common),
            perplexity_bars.of_perplexity(perplexity_bars.at_length(prediction, name, length)),
            perplexity_bars.ratio(prediction, name, best, length),
        )
        for name in compared
    ]
    left_out = [name for name in schemes if name not in compared]
    return Ranking(length, candidates, left_out, len({trial for *_, trial in common}) == 1)


def _is_usable(nll: float) -> bool:
    return math.isfinite(nll) and math.isfinite(perplexity.exp(nll))


def recommendations(results: Results) -> dict[str, Candidate]:
    """The best for prediction, the best for retrieval, and the best retriever that predicts well still.

    Where the passkeys are too few to choose by, only the best for prediction.
    """
    ranked = ranking(results)
    if not ranked.candidates:
        return {}
    best = min(ranked.candidates, key=lambda c: c.perplexity)
    if not ranked.tells_retrieval:
        return {"best prediction": best}
    return {
        "recommended": max(_near(ranked, best), key=lambda c: (c.found, -c.perplexity)),
        "best prediction": best,
        "best retrieval": max(ranked.candidates, key=lambda c: (c.found, -c.perplexity)),
    }


def _near(ranked: Ranking, best: Candidate) -> list[Candidate]:
    """Those that are not known to cost more than TOLERANCE of the best perplexity: where the text tells, by
    the lower end of the cost's interval."""
    return [
        c
        for c in ranked.candidates
        if (c.perplexity / best.perplexity if c.cost is None else c.cost.interval.low) <= 1 + TOLERANCE
    ]


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
                *(perplexity.shown(row.get(n), _interval(prediction, method, n)) for n in lengths),
                "" if math.isnan(share) else _share(share, retrieval.interval(keys, method=method)),
                ", ".join(name for name, candidate in chosen.items() if candidate.method == method),
            ]
        )
    columns = ["scheme", *(f"perplexity to {length:,}" for length in lengths), "keys found", ""]
    return [
        Table("Schemes (chunk size / local window / pretraining length)", columns, rows),
        *_advice(ranking(results), chosen),
    ]


def _interval(prediction: Results, method: str, length: int) -> Interval | None:
    return perplexity_bars.of_perplexity(perplexity_bars.at_length(prediction, method, length))


def _share(share: float, interval: Interval | None) -> str:
    return f"{share:.0%}" + (
        "" if interval is None else f" [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    )


def verdict(results: Results) -> list[str]:
    """What the figures say, in sentences: what is recommended, on how much evidence, and how sure that is."""
    ranked, chosen = ranking(results), recommendations(results)
    if not chosen:
        return ["No scheme has both figures yet: nothing can be recommended."]
    best, lines = chosen["best prediction"], []
    keys, count = best.keys, len(ranked.candidates)
    if "recommended" not in chosen:
        lines.append(
            f"No recommendation: {keys} passkey{'s' if keys > 1 else ''} a scheme in one trial do not tell "
            f"schemes apart; give --trials 4 or more. {best.method} predicts best "
            f"(perplexity {best.perplexity:.2f} to {ranked.length:,} tokens)."
        )
    else:
        first = chosen["recommended"]
        low, high = first.interval
        alike = [c for c in _near(ranked, best) if c != first and c.finds_as(first)]
        lines.append(
            f"Recommended: {first.method}, perplexity {first.perplexity:.2f}{_bounds(first)} to "
            f"{ranked.length:,} tokens, "
            f"{first.found * keys:g} of n = {keys} passkeys found ({first.found:.0%}; with 95 % confidence "
            f"{low:.0%} to {high:.0%})."
        )
        if alike:
            lines.append(
                f"{len(alike)} of the {count - 1} others cannot be told apart from it with n = {keys}: "
                f"{', '.join(c.method for c in alike)}; more --trials would."
            )
    if ranked.left_out:
        lines.append(
            f"Left out, since not measured to {ranked.length:,} tokens with the same passkeys or not finite: "
            f"{', '.join(ranked.left_out)}."
        )
    return lines


def _bounds(candidate: Candidate) -> str:
    found = candidate.perplexity_interval
    return "" if found is None else f" [{found.low:.2f}, {found.high:.2f}]"


def _advice(ranked: Ranking, chosen: dict[str, Candidate]) -> list[Table]:
    rows = []
    for name, candidate in chosen.items():
        scheme = parse(candidate.method).scheme
        assert scheme is not None  # a candidate is named by its scheme
        options = (
            f"--chunk-size {scheme.chunk_size} --local-window {scheme.local_window} "
            f"--pretraining-length {scheme.pretraining_length}"
        )
        low, high = candidate.interval
        found = f"{candidate.found * candidate.keys:g}/{candidate.keys}"
        shown = f"{candidate.perplexity:.2f}{_bounds(candidate)}"
        rows.append([name, shown, found, f"{low:.0%} to {high:.0%}", options])
    if not rows:
        return []
    note = (
        f"recommended: most keys of those not known to cost more than {TOLERANCE:.0%} of the best perplexity "
        f"to {ranked.length:,} tokens"
        if "recommended" in chosen
        else "nothing is recommended: too few passkeys to choose by, give --trials 4 or more"
    )
    columns = ["for", "perplexity", "keys found", "95 % confidence", "options"]
    return [Table(f"Settings for dca-export ({note})", columns, rows)]


def figures(results: Results) -> dict[str, Any]:
    """Both experiments' figures, the recommendations and what they rest on, for JSON."""
    ranked = ranking(results)
    chosen = {
        name: vars(candidate)
        | {
            "interval": candidate.interval,
            "cost": None if candidate.cost is None else candidate.cost._asdict(),
            "scheme": results.scheme(candidate.method),
            "seed": results.settings.get("seed"),
            "not_told_apart": [
                c.method for c in ranked.candidates if c != candidate and c.finds_as(candidate)
            ],
        }
        for name, candidate in recommendations(results).items()
    }
    return combined.figures(results) | {
        "recommendations": chosen,
        "compared_to": ranked.length,
        "left_out": ranked.left_out,
        "verdict": verdict(results),
    }


def draw(results: Results) -> "Figure":
    """Each scheme as a point: perplexity to the right, keys found upwards. The best are top left."""
    from dca_export.evaluate.output import plots

    figure, (axes,) = plots.panels(1, results.header["model"]["file"])
    chosen = recommendations(results)
    points = []
    for candidate in ranking(results).candidates:
        names = [name for name, other in chosen.items() if other == candidate]
        label = f"{candidate.method.removeprefix('dca:')}: {candidate.perplexity:.2f}, {candidate.found:.0%}"
        label += f" ({', '.join(names)})" if names else ""
        low, high = candidate.interval
        bars = (candidate.perplexity_interval, (100 * low, 100 * high))
        points.append((candidate.perplexity, 100 * candidate.found, label, "recommended" in names, bars))
    plots.draw_points(axes, points)
    axes.set_xlabel(f"perplexity to {ranking(results).length:,} tokens")
    axes.set_ylabel("keys found, %")
    axes.set_ylim(-8, 108)  # room for markers; no tick beyond what can be
    axes.set_yticks(range(0, 101, 20))
    return figure
