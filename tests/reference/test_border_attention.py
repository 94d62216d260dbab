"""ReRoPE, Self-Extend, STRING, StreamingLLM and LM-Infinite against dense forms of their papers' formulas."""

import numpy as np
import pytest
from border_oracle import border_attention
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from dca_export.reference.border_attention import (  # noqa: E402
    eager_border_attention,
    flash_border_attention,
    rotate,
)
from dca_export.reference.borders import RULES, String  # noqa: E402
from dca_export.reference.rotary import Rotary  # noqa: E402

BOTH = [eager_border_attention, flash_border_attention]


@st.composite
def problems(draw):
    """Un-rotated q, k, v in float64, a method with its numbers, and a rotary embedding, partial or not."""
    m = draw(st.integers(1, 40))
    n = draw(st.integers(1, m))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pairs, rest = draw(st.integers(1, 4)), draw(st.sampled_from([0, 0, 2]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    window, other = draw(st.integers(1, 14)), draw(st.integers(1, 8))
    name = draw(st.sampled_from(list(RULES)))
    numbers = {
        "rerope": (window,),
        "self-extend": (other, window),
        "string": (window, min(other, window)),
        "streaming": (other - 1, window),
        "lm-infinite": (other - 1, window),
    }[name]
    return {
        "q": random.standard_normal((kv_heads * groups, n, 2 * pairs + rest)) * 2,
        "k": random.standard_normal((kv_heads, m, 2 * pairs + rest)) * 2,
        "v": random.standard_normal((kv_heads, m, 3)),
        "name": name,
        "numbers": numbers,
        "frequencies": random.uniform(0, 1, pairs),
        "layout": draw(st.sampled_from(["halves", "interleaved"])),
        "scale": draw(st.sampled_from([1.0, 1.3])),
    }


def run(function, problem, dtype=torch.float64):
    q, k, v = (torch.from_numpy(problem[name]).to(dtype) for name in "qkv")
    rotary = Rotary(torch.from_numpy(problem["frequencies"]), problem["layout"], problem["scale"])
    rule = RULES[problem["name"]][0](*problem["numbers"])
    return function(*rotate(q, k, rule, rotary), v, rule)


@pytest.mark.parametrize("function", BOTH)
@given(problem=problems())
@settings(max_examples=80, deadline=None)
def test_it_is_what_the_paper_says(function, problem):
    assert np.abs(run(function, problem).numpy() - border_attention(**problem)).max() < 1e-10


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    ("name", "numbers"),
    [("rerope", (90,)), ("self-extend", (7, 130)), ("string", (200, 40)), ("streaming", (4, 97))],
)
def test_longer_than_a_block_of_rows(function, name, numbers, monkeypatch):
    from dca_export.reference import border_attention as module
    from dca_export.reference import kernels

    random = np.random.default_rng(0)
    problem = {
        **{key: random.standard_normal((1, 400, 4)) for key in "qkv"},
        "name": name,
        "numbers": numbers,
        "frequencies": np.array([1.0, 0.05]),
        "layout": "halves",
        "scale": 1.0,
    }
    expected = border_attention(**problem)
    for each in (module, kernels):
        monkeypatch.setattr(each, "QUERY_BLOCK", 37)
    assert np.abs(run(function, problem).numpy() - expected).max() < 1e-10


@given(problems(), st.sampled_from([(torch.float32, 2e-5), (torch.bfloat16, 0.15), (torch.float16, 0.03)]))
@settings(max_examples=30, deadline=None)
def test_both_agree_in_lower_precision(problem, precision):
    dtype, tolerance = precision
    eager, flash = (run(function, problem, dtype) for function in BOTH)
    assert eager.dtype == flash.dtype == dtype
    assert (eager.float() - flash.float()).abs().max() < tolerance


def test_string_needs_one_rotation_of_a_key():
    indices = torch.arange(9)
    assert torch.equal(String(5, 2).far_key(indices), indices)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("rerope", (0,)),
        ("self-extend", (0, 4)),
        ("string", (4, 5)),
        ("streaming", (-1, 4)),
        ("lm-infinite", (1, 0)),
    ],
)
def test_numbers_that_cannot_be(name, numbers):
    with pytest.raises(ValueError, match="must be"):
        RULES[name][0](*numbers)
