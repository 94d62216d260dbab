"""Where a method breaks, and what long contexts cost beside those of the trained length on the same text."""

import math

import numpy as np
import pytest

from dca_export.evaluate import experiments, perplexity_bars, reach
from dca_export.evaluate.output.verdict import verdict
from dca_export.evaluate.results import Results

TRAINED = 1000
WITHIN = 2.0  # nll within the trained length; FAILS times its perplexity is nll 2.69


def measured(**windows: list[float]) -> Results:
    """nll of windows of 500 tokens by method."""
    kept = empty()
    for method, nlls in windows.items():
        spans = [[500 * k, 500 * (k + 1), nll] for k, nll in enumerate(nlls)]
        lengths = [[1000, float(np.mean(nlls[:2]))], [500 * len(nlls), float(np.mean(nlls))]]
        cell = {"method": method, "lengths": [n for n, _ in lengths]}
        kept.add(cell, {"lengths": lengths, "windows": spans})
    return kept


def empty() -> Results:
    return Results(
        {
            "experiment": "perplexity",
            "model": {"file": "m", "context_length": TRAINED, "scheme": [300, 100, 400, 0.0, 0]},
            "settings": {"text": "t"},
        }
    )


def slid(**nlls: dict[int, np.ndarray]) -> Results:
    """nll of every token but the first, by method and length of the contexts."""
    kept = empty()
    for method, by_length in nlls.items():
        for length, nll in by_length.items():
            blocks = perplexity_bars.measured(nll, len(nll) + 1, [length])
            figures = {"nll": float(nll.mean()), "tokens": len(nll), "blocks": blocks}
            kept.add({"method": method, "length": length}, figures)
    return kept


@pytest.mark.parametrize(
    ("nlls", "at"),
    [
        ([2, 2, 2.5, 2.6], None),
        ([2, 2, 3, 3], 1000),
        ([2, 2, 3, 2, 3], 2000),  # a hard page is no break
        ([2, 2, 3, 2], None),
        ([2, 2, 2, math.nan], 1500),
        ([9, 9, 9, 9], 0),
    ],
)
def test_it_breaks_where_every_window_from_there_on_fails(nlls, at):
    results = measured(plain=[WITHIN] * 4, dca=nlls)
    assert reach.breaks_at(results, "dca") == at
    assert experiments.summary(results)["reach"][1]["breaks_at"] == at


def test_the_best_within_the_trained_length_is_the_measure():
    results = measured(plain=[WITHIN, WITHIN, 9, 9], dca=[4, 4, 4, 4])
    assert reach.limit(results) == pytest.approx(reach.FAILS * math.exp(WITHIN))
    assert verdict(results)[1].startswith("dca:300/100/400 fails from the first token on: perplexity 54.60")


def test_a_method_that_overflows_does_not_make_the_others_fail():
    results = measured(plain=[math.nan] * 4, dca=[2, 2, 2, 2])
    assert reach.breaks_at(results, "plain") == 0 and reach.breaks_at(results, "dca") is None


def test_what_is_said_of_a_rise_and_of_a_failure():
    results = measured(plain=[2, 2, 2, 4, 5, 5], dca=[2, 2, 2.2, 2.2, 2.2, 2.2])
    plain, dca = verdict(results)
    assert plain == (
        "plain fails beyond the trained 1,000 tokens: perplexity 28.03 at 3,000 tokens, where it fails from "
        "about 1,500 on."
    )
    assert dca == (
        "dca:300/100/400 rises from perplexity 7.39 within the trained 1,000 tokens to 8.44 at 3,000 tokens."
    )


def test_long_contexts_are_paired_with_short_ones():
    nll = np.random.default_rng(0).gamma(2.0, 1.0, 3999)
    longer = nll + 0.05 + np.random.default_rng(1).normal(0, 0.01, 3999)
    results = slid(plain={1000: nll, 4000: nll + 3}, dca={1000: nll, 4000: longer})
    assert reach.beside_trained(results, "dca", 1000) is None
    within, ratio = reach.beside_trained(results, "dca", 4000)
    assert within == 1000 and ratio.differs
    assert ratio.value == pytest.approx(math.exp((longer - nll).mean()))
    low, high = ratio.interval
    assert low < ratio.value < high and high - low < 0.01
    assert verdict(results)[-1].startswith(
        "On the same text, dca:300/100/400 in contexts of 4,000 tokens has ×1.05"
    )
    (found,) = experiments.summary(results)["reach"][1]["beside_trained"]
    assert found["length"] == 4000 and found["contexts_of"] == 1000 and found["ratio"] == ratio.value


def test_one_pass_has_nothing_to_be_paired_with():
    assert reach.beside_trained(measured(plain=[2, 2, 2]), "plain", 1500) is None
