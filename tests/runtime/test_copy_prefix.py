"""Copying the start of one session into another: what is exact, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dca_runtime as dca

SCHEME = (40, 12, 64)
EVERYTHING = 2**31
CONTEXT = 128


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=SCHEME, context_length=64), context=CONTEXT) as model:
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(0, 320, 100, np.int32)


def method(attention, scheme=None, rope=None):
    return {"attention": attention, "scheme": scheme, "rope": rope}


ATTENTIONS = [
    method("plain"),
    method("dca"),
    method("intra"),
    method("intra+inter"),
    method("dca", (50, 14, 64)),
    method("dca", (40, 12, 64, 0.1, 20)),
    method("string:36/6"),
    method("streaming:4/36"),
    method("lm-infinite:4/45"),
]


@settings(max_examples=40, deadline=None)
@given(
    to=st.sampled_from(ATTENTIONS),
    source=st.sampled_from(ATTENTIONS),
    cache_type=st.sampled_from(["f32", "f16", "bf16", "q8"]),
    room=st.sampled_from([CONTEXT, 200]),
    data=st.data(),
)
def test_going_on_from_a_copy_gives_the_same_bits(model, ids, to, source, cache_type, room, data):
    with (
        model.session(**source, cache_type=cache_type, context=room) as other,
        model.session(**to, cache_type=cache_type) as copied,
        model.session(**to, cache_type=cache_type) as fresh,
    ):
        length = data.draw(st.integers(2, min(copied.exact_prefix(other), len(ids) - 2)))
        other.append(ids)
        copied.append(ids[::-1])  # is forgotten
        copied.copy_prefix(other, length)
        fresh.append(ids)  # in the steps of the other: few tokens take another path through the kernels
        fresh.truncate(length)
        assert copied.length == length
        wanted = fresh.eval(ids[length:], all_logits=True)
        np.testing.assert_array_equal(copied.eval(ids[length:], all_logits=True), wanted)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (method("plain"), method("dca"), 40),
        (method("dca", (50, 14, 64)), method("intra"), 40),
        (method("plain"), method("dca", (40, 12, 64, 0.1, 20)), 20),
        (method("plain", rope="ntk:2"), method("dca", rope="ntk:2"), 40),
        (method("dca"), method("dca"), EVERYTHING),
        (method("plain"), method("string:36/6"), 36),
        (method("dca"), method("string:50/6"), 40),
        (method("string:36/6"), method("string:36/7"), 36),
        (method("string:36/6"), method("string:36/6"), EVERYTHING),
        (method("streaming:4/30"), method("lm-infinite:4/33"), 30),
        (method("plain"), method("plain", rope="yarn:1"), EVERYTHING),
        (method("plain"), method("plain", rope="linear:2"), 0),
        (method("plain", rope="yarn:2"), method("plain", rope="yarn:4"), 0),
    ],
)
def test_how_much_is_exact(model, first, second, wanted):
    with model.session(**first) as one, model.session(**second) as other:
        assert one.exact_prefix(other) == other.exact_prefix(one) == wanted


def test_nothing_is_exact_across_cache_types_and_models(model, tiny_gguf):
    with dca.Model(tiny_gguf(scheme=SCHEME, context_length=64)) as twin, twin.session() as foreign:
        with model.session() as mine, model.session(cache_type="f32") as wide:
            assert mine.exact_prefix(foreign) == mine.exact_prefix(wide) == 0
            with pytest.raises(dca.DcaError, match="models differ"):
                mine.copy_prefix(foreign, 0)
            with pytest.raises(dca.DcaError, match="cache types differ"):
                mine.copy_prefix(wide, 0)


def test_the_exact_prefix_is_where_logits_part(model, ids):
    with model.session(attention="plain") as plain, model.session(attention="intra") as intra:
        exact = plain.exact_prefix(intra)
        one, other = (session.eval(ids, all_logits=True) for session in (plain, intra))
    np.testing.assert_array_equal(one[:exact], other[:exact])
    assert np.abs(one[exact] - other[exact]).max() > 1e-4


@pytest.mark.parametrize(
    ("length", "message"),
    [(41, "only the first 40"), (31, "has 30"), (-1, "length must be an integer")],
)
def test_lengths_that_cannot_be(model, ids, length, message):
    with model.session(attention="plain") as source, model.session(attention="dca") as session:
        source.append(ids[:30])
        session.append(ids[:7])
        with pytest.raises(dca.DcaError, match=message):
            session.copy_prefix(source, length)
        assert session.length == 7


def test_a_context_that_is_too_small_is_said(model, ids):
    with model.session() as source, model.session(context=10) as session:
        source.append(ids[:30])
        with pytest.raises(dca.DcaError, match="the context holds 10") as caught:
            session.copy_prefix(source, 30)
        assert caught.value.status == dca.Status.CONTEXT


def test_a_session_cannot_copy_from_itself_or_a_closed_one(model):
    with model.session() as session:
        with pytest.raises(dca.DcaError, match="itself"):
            session.copy_prefix(session, 0)
        closed = model.session()
        closed.close()
        with pytest.raises(dca.DcaError, match="closed"):
            session.copy_prefix(closed, 0)
