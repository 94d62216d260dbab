"""What passes and what does not."""

import math
import re
from dataclasses import replace

import pytest

from dca_export.parity.agreement import Agreement
from dca_export.parity.tolerance import Tolerance, export_tolerance, tolerance_for
from dca_runtime.options import CACHE_TYPES

GOOD = Agreement(
    tokens=1000,
    max_difference=1e-4,
    worst_token=7,
    mean_difference=1e-5,
    mean_kl=1e-7,
    max_kl=1e-6,
    top1_disagreements=0,
    perplexity_reference=20.0,
    perplexity_runtime=20.0,
    not_finite=0,
)
TOLERANCE = Tolerance("a test", max_difference=2e-3, mean_kl=1e-5, top1=0.998)


def test_good_logits_pass():
    assert TOLERANCE.failures(GOOD) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_difference": 2.1e-3}, r"largest difference 0.0021 \(token 7\) is above 0.002"),
        ({"mean_kl": 1.1e-5}, "mean KL 1.1e-05 is above 1e-05"),
        ({"top1_disagreements": 3}, "top-1 agreement 99.700% is below 99.8%"),
        ({"not_finite": 1}, "1 logits are NaN or infinite"),
        ({"max_difference": math.nan}, "largest difference nan"),
        ({"mean_kl": math.nan}, "mean KL nan"),
    ],
)
def test_each_limit_fails_alone(change, message):
    (failure,) = TOLERANCE.failures(replace(GOOD, **change))
    assert re.search(message, failure)


def test_values_that_are_not_finite_fail_whatever_is_demanded():
    assert Tolerance("nothing demanded").failures(replace(GOOD, not_finite=5))


def test_one_tie_does_not_fail_a_short_part():
    short = replace(GOOD, tokens=100)
    assert not TOLERANCE.failures(replace(short, top1_disagreements=1))
    assert TOLERANCE.failures(replace(short, top1_disagreements=2))


def test_the_stated_limits():
    exact = tolerance_for("f16", "cpu (AVX2, 2 threads)", "f32")
    assert (exact.relative_difference, exact.max_kl) == (2e-3, 3e-7)
    assert tolerance_for("f32", "cpu", "f32") == tolerance_for("bf16", "cpu", "f32") == exact
    assert tolerance_for("f16", "cuda:0 (NVIDIA H100)", "f16").relative_difference == 0.2


def test_the_more_a_cache_rounds_the_more_is_let_pass():
    limits = [tolerance_for("f16", "cpu", cache) for cache in ("f32", "f16", "bf16", "q8")]
    for name in ("relative_difference", "mean_kl", "max_kl"):
        values = [getattr(limit, name) for limit in limits]
        assert values == sorted(set(values))


@pytest.mark.parametrize("device", ["cpu", "cuda:0 (a card)"])
@pytest.mark.parametrize("weights", ["f16", "bf16", "q8_0"])
def test_there_are_limits_for_every_cache_of_a_device(device, weights):
    for cache_type in CACHE_TYPES:
        assert tolerance_for(weights, device, cache_type).mean_kl is not None


def test_a_rounded_cache_may_move_tokens_to_other_experts_and_one_in_f32_may_not():
    assert tolerance_for("f16", "cpu", "f32", experts=True) == tolerance_for("f16", "cpu", "f32")
    assert tolerance_for("f16", "cpu", "f16", experts=True).relative_difference is None


def test_an_original_checkpoint_allows_for_the_rounding_of_weights_only():
    for weights in ("f32", "f16", "bf16"):
        assert export_tolerance(weights, "cpu", "f32", False) == tolerance_for(weights, "cpu", "f32")
    assert export_tolerance("f32", "cpu", "f32", True) == tolerance_for("f32", "cpu", "f32")
    types = ("f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
    kl = [export_tolerance(kind, "cpu", "f32", True).mean_kl for kind in types]
    assert kl[1:] == sorted(kl[1:])


def test_a_reference_that_rounds_adds_what_it_rounds():
    own = replace(GOOD, max_difference=0.05, mean_kl=6e-5, max_kl=4e-4, top1_disagreements=20)
    limit = tolerance_for("f16", "cuda:0", "f16")
    beside = limit.beside(own)
    assert beside.mean_kl == pytest.approx(limit.mean_kl + 6e-5)
    assert beside.relative_difference == pytest.approx(limit.relative_difference + 0.05)
    assert beside.max_kl == pytest.approx(2 * (limit.max_kl + 4e-4))
    assert beside.top1 == pytest.approx(limit.top1 - 0.02)
    assert beside.max_difference is None
    assert "mean KL 6e-05" in str(beside)


def test_a_reference_that_is_far_off_adds_ten_times_the_limit_at_most():
    limit = tolerance_for("f16", "cuda:0", "f16")
    assert limit.beside(replace(GOOD, mean_kl=1.0)).mean_kl == pytest.approx(11 * limit.mean_kl)
    for value in (math.nan, math.inf):
        assert limit.beside(replace(GOOD, mean_kl=value)).failures(GOOD)
