"""The statistics of two sets of logits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dca_export.parity import agreement
from dca_export.parity.agreement import Comparison


def compare(reference, runtime, next_ids, splits=()):
    comparison = Comparison()
    positions = np.arange(len(reference))
    edges = [0, *sorted(splits), len(reference)]
    for start, stop in zip(edges, edges[1:], strict=False):
        block = slice(start, stop)
        comparison.add(positions[block], reference[block], runtime[block], next_ids[block])
    return comparison.result()


def random_logits(seed: int, rows: int = 12, vocab: int = 7, noise: float = 0.3):
    random = np.random.default_rng(seed)
    reference = random.standard_normal((rows, vocab)).astype(np.float32) * 3
    runtime = reference + random.standard_normal((rows, vocab)).astype(np.float32) * noise
    next_ids = np.append(random.integers(0, vocab, rows - 1), -1)
    return reference, runtime.astype(np.float32), next_ids


@given(st.integers(0, 1000), st.lists(st.integers(0, 12), max_size=4), st.integers(1, 100))
@settings(deadline=None)
def test_figures_are_their_definitions(seed, splits, block):
    reference, runtime, next_ids = random_logits(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "_BLOCK_VALUES", block)
        found = compare(reference, runtime, next_ids, splits)

    def probabilities(row):
        exponentials = [math.exp(float(x)) for x in row]
        return [x / math.fsum(exponentials) for x in exponentials]

    kl, nll = [], [[], []]
    for expected, got, label in zip(reference, runtime, next_ids, strict=True):
        p, q = probabilities(expected), probabilities(got)
        kl.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        if label >= 0:
            nll[0].append(-math.log(p[label]))
            nll[1].append(-math.log(q[label]))
    difference = np.abs(reference.astype(np.float64) - runtime.astype(np.float64))
    assert found.tokens == 12
    assert found.max_difference == difference.max()
    assert found.worst_token == difference.max(axis=1).argmax()
    assert found.mean_difference == pytest.approx(difference.mean())
    assert found.mean_kl == pytest.approx(np.mean(kl), rel=1e-9)
    assert found.max_kl == pytest.approx(max(kl), rel=1e-9)
    assert found.top1_disagreements == np.sum(reference.argmax(1) != runtime.argmax(1))
    assert found.perplexity_reference == pytest.approx(math.exp(np.mean(nll[0])))
    assert found.perplexity_runtime == pytest.approx(math.exp(np.mean(nll[1])))
    assert found.not_finite == 0


def test_equal_logits_agree_entirely():
    reference, _, next_ids = random_logits(3)
    found = compare(reference, reference.copy(), next_ids)
    assert found.max_difference == found.mean_difference == found.mean_kl == found.max_kl == 0
    assert found.top1 == 1
    assert found.perplexity_reference == found.perplexity_runtime


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reference", "runtime"])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_one_value_that_is_not_finite_shows(value, side, row):
    reference, runtime, next_ids = random_logits(1)
    (reference if side == "reference" else runtime)[row, 2] = value
    found = compare(reference, runtime, next_ids, splits=[3, 6, 9])
    assert found.not_finite == 1
    assert not math.isfinite(found.max_difference)
    assert found.worst_token == row
    assert not math.isfinite(found.mean_difference)


def test_large_logits_do_not_overflow():
    reference = np.array([[5000.0, 0.0, -5000.0]], np.float32)
    found = compare(reference, reference - 4000, np.array([-1]))
    assert found.mean_kl == 0
    assert math.isnan(found.perplexity_runtime)  # no position had a next token


def test_logits_of_different_vocabularies_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        Comparison().add(np.arange(2), np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(2, int))
    with pytest.raises(ValueError, match="no logits were compared"):
        Comparison().result()
