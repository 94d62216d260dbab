"""Eager and flash attention against the relative-position oracle, and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relative_oracle import distance, relative_attention

from dca_export.scheme import Scheme

torch = pytest.importorskip("torch")

from dca_export.reference import attention as eager_module  # noqa: E402
from dca_export.reference import kernels  # noqa: E402
from dca_export.reference.attention import Queries, eager_attention, rotate_queries  # noqa: E402
from dca_export.reference.flash import flash_attention  # noqa: E402
from dca_export.reference.positions import key_positions, query_positions  # noqa: E402
from dca_export.reference.rotary import Rotary  # noqa: E402

ATTENTIONS = ["plain", "dca", "intra", "intra+inter"]


@st.composite
def schemes(draw, longest=12):
    s = draw(st.integers(1, longest))
    c = s + draw(st.integers(1, longest))
    scaled = draw(st.booleans())
    return Scheme(
        s,
        draw(st.integers(0, c - s)),
        c,
        *((draw(st.floats(0.01, 0.5)), draw(st.integers(1, 20))) if scaled else ()),
    )


@st.composite
def problems(draw):
    """Un-rotated q, k, v in float64, a scheme, and a rotary embedding, partial or not."""
    m = draw(st.integers(1, 40))
    n = draw(st.integers(1, m))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pairs, rest = draw(st.integers(1, 4)), draw(st.sampled_from([0, 0, 2]))
    head_dim, value_dim = 2 * pairs + rest, draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return {
        "q": random.standard_normal((kv_heads * groups, n, head_dim)) * 2,
        "k": random.standard_normal((kv_heads, m, head_dim)) * 2,
        "v": random.standard_normal((kv_heads, m, value_dim)),
        "scheme": draw(schemes()),
        "attention": draw(st.sampled_from(ATTENTIONS)),
        "frequencies": random.uniform(0, 1, pairs),
        "layout": draw(st.sampled_from(["halves", "interleaved"])),
        "scale": draw(st.sampled_from([1.0, 1.3])),
    }


def run(function, problem, dtype=torch.float64):
    q, k, v = (torch.from_numpy(problem[name]).to(dtype) for name in "qkv")
    rotary = Rotary(torch.from_numpy(problem["frequencies"]), problem["layout"], problem["scale"])
    scheme, attention = problem["scheme"], problem["attention"]
    indices = torch.arange(k.shape[1])
    keys = rotary.rotate(k, key_positions(indices, None if attention == "plain" else scheme))
    queries = rotate_queries(q, indices[-q.shape[1] :], scheme, attention, rotary)
    return function(queries, keys, v, scheme, attention)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_eager_is_the_papers_equation(problem):
    expected = relative_attention(**problem)
    assert np.abs(run(eager_attention, problem).numpy() - expected).max() < 1e-12


@given(problems())
@settings(max_examples=60, deadline=None)
def test_flash_is_the_papers_equation(problem):
    expected = relative_attention(**problem)
    assert np.abs(run(flash_attention, problem).numpy() - expected).max() < 1e-12


@given(problems(), st.sampled_from([(torch.float32, 2e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)]))
@settings(max_examples=40, deadline=None)
def test_flash_agrees_with_eager_in_lower_precision(problem, precision):
    dtype, tolerance = precision
    eager, flash = run(eager_attention, problem, dtype), run(flash_attention, problem, dtype)
    assert eager.dtype == flash.dtype == dtype
    assert (eager.float() - flash.float()).abs().max() < tolerance


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("function", [eager_attention, flash_attention])
def test_blocks_of_rows_do_not_show(function, attention, monkeypatch):
    """The block size bounds memory only: lengths beyond one block give what one large block gives."""
    random = np.random.default_rng(0)
    problem = {
        "q": random.standard_normal((2, 50, 4)),
        "k": random.standard_normal((1, 61, 4)),
        "v": random.standard_normal((1, 61, 4)),
        "scheme": Scheme(23, 5, 30, 0.2, 10),
        "attention": attention,
        "frequencies": np.array([1.0, 0.1]),
        "layout": "halves",
        "scale": 1.0,
    }
    whole = run(function, problem)
    for module in (eager_module, kernels):
        monkeypatch.setattr(module, "QUERY_BLOCK", 7)
    assert torch.allclose(run(function, problem), whole, atol=1e-13, rtol=0)


@given(problems(), st.data())
@settings(max_examples=40, deadline=None)
def test_decode_equals_prefill(problem, data):
    """The output of a token depends on what came before it, not on how the tokens were fed."""
    start = data.draw(st.integers(1, problem["q"].shape[1])) - 1
    tail = {**problem, "q": problem["q"][:, start : start + 1]}
    end = problem["k"].shape[1] - problem["q"].shape[1] + start + 1
    tail["k"], tail["v"] = problem["k"][:, :end], problem["v"][:, :end]
    whole = run(eager_attention, problem)[:, start]
    assert torch.allclose(run(eager_attention, tail)[:, 0], whole, atol=1e-13, rtol=0)


def test_figure_2():
    """s = 6, c = 10, w = 4 and 12 tokens."""
    scheme, indices = Scheme(6, 4, 10), torch.arange(12)
    assert key_positions(indices, scheme).tolist() == [0, 1, 2, 3, 4, 5] * 2
    positions = query_positions(indices, scheme)
    assert positions.intra.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert positions.successive.tolist() == [6, 7, 8, 9, 9, 9] * 2
    assert positions.inter.tolist() == [9] * 12
    assert [distance(6, j, scheme, "dca") for j in range(7)] == [6, 5, 4, 3, 2, 1, 0]


@given(schemes(longest=40), st.integers(0, 500))
def test_positions_are_the_schemes(scheme, length):
    """Two independent implementations of eq. 2, 5 and 7."""
    ours, theirs = query_positions(torch.arange(length), scheme), scheme.query_positions(length)
    for name in ("intra", "successive", "inter"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()


@given(problems(), st.integers(-50, 50))
@settings(max_examples=30, deadline=None)
def test_rotations_add_up(problem, steps):
    rotary = Rotary(torch.from_numpy(problem["frequencies"]), problem["layout"], problem["scale"])
    q = torch.from_numpy(problem["q"])
    positions = torch.arange(q.shape[1])
    advanced = rotary.advance(rotary.rotate(q, positions), torch.full_like(positions, steps))
    assert torch.allclose(advanced, rotary.rotate(q, positions + steps), atol=1e-12)


@pytest.mark.parametrize("function", [eager_attention, flash_attention])
def test_an_unknown_attention_or_a_missing_scheme_is_refused(function):
    x = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="attention is 'dense'"):
        function(Queries(x, x, x), x, x, Scheme(2, 1, 4), "dense")
    with pytest.raises(ValueError, match="needs a scheme"):
        function(Queries(x, x, x), x, x, None, "dca")
