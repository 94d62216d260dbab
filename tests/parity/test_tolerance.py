"""What passes and what does not."""

import math
import re
from dataclasses import replace

import pytest

from dca_export.parity.agreement import Agreement
from dca_export.parity.tolerance import Tolerance, tolerance_for

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
    assert tolerance_for("f32", "cpu", False).max_difference == 2e-3
    f16 = tolerance_for("f16", "cpu (AVX2, 2 threads)", False)
    assert (f16.mean_kl, f16.top1) == (1e-5, 0.998)
    assert tolerance_for("q8_0", "cpu", False).mean_kl == 1e-4
    cuda = tolerance_for("f16", "cuda:0 (NVIDIA H100)", False)
    assert (cuda.mean_kl, cuda.top1) == (1e-4, 0.995)


def test_an_original_checkpoint_allows_for_the_rounding_of_weights_only():
    assert tolerance_for("f32", "cpu", True) == tolerance_for("f32", "cpu", False)
    kl = [
        tolerance_for(kind, "cpu", True).mean_kl for kind in ("q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
    ]
    assert kl == sorted(kl)
