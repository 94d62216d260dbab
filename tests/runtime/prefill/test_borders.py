"""Attentions whose border moves with the query, and dynamic NTK, against a dense model in NumPy."""

import numpy as np
import pytest
from dense_model import border_distances, dense_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Tiny

import dca_runtime as dca
from dca_export.scheme import Scheme
from dca_runtime.attention import parse

TINY = Tiny(context_length=64)
N = 300
NAMES = ("string", "streaming", "lm-infinite")


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(context_length=64)) as model:
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(5).integers(0, TINY.vocab, N, np.int32)


@st.composite
def methods(draw, most=N):
    """(attention as text, scheme or None, its matrix for so many tokens)."""
    name = draw(st.sampled_from([*NAMES, "dca"]))
    if name == "dca":
        chunk = draw(st.integers(1, 150))
        beyond = draw(st.integers(1, 60))
        scheme = Scheme(chunk, draw(st.integers(0, beyond)), chunk + beyond)
        return (
            name,
            (scheme.chunk_size, scheme.local_window, scheme.pretraining_length),
            (lambda n: scheme.relative_positions(n)),
        )
    window = draw(st.one_of(st.integers(1, 140), st.sampled_from([31, 32, 33, 127, 128, 129, 1000])))
    other = draw(st.one_of(st.integers(0, 12), st.integers(0, 200)))
    first, second = (window, min(other, window)) if name == "string" else (other, window)
    return f"{name}:{first}/{second}", None, lambda n: border_distances(name, first, second, n)


@pytest.mark.filterwarnings("ignore::dca_runtime.DcaWarning")
@settings(max_examples=60, deadline=None)
@given(
    method=methods(),
    cuts=st.lists(st.integers(1, 90), max_size=12),
    length=st.integers(1, N),
    seed=st.integers(0, 9),
)
def test_logits_are_the_dense_models_however_tokens_are_fed(model, method, cuts, length, seed):
    attention, scheme, matrix = method
    ids = np.random.default_rng(seed).integers(0, TINY.vocab, length, np.int32)
    expected = dense_logits(TINY, ids, matrix(length))
    with model.session(context=N, attention=attention, scheme=scheme, cache_type="f32") as session:
        found, start = [], 0
        for cut in [*cuts, length]:
            piece = ids[start : start + cut]
            if len(piece):
                found.append(session.eval(piece, all_logits=True))
            start += cut
        assert np.abs(np.concatenate(found) - expected).max() < 2e-3


@pytest.mark.parametrize("attention", ["string:100/8", "streaming:4/90", "lm-infinite:3/90", "string:700/30"])
def test_decoding_over_many_pieces_of_keys_is_the_dense_models(model, attention):
    """Threads share a row's keys from 512 of them on."""
    name, _, numbers = attention.partition(":")
    ids = np.random.default_rng(8).integers(0, TINY.vocab, 1100, np.int32)
    matrix = border_distances(name, *map(int, numbers.split("/")), len(ids))
    expected = dense_logits(TINY, ids, matrix)
    with model.session(context=len(ids), attention=attention, cache_type="f32") as session:
        session.append(ids[:-5])
        found = np.array([session.eval([token]) for token in ids[-5:]])
    assert np.abs(found - expected[-5:]).max() < 2e-3


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8", "q4"])
@pytest.mark.parametrize("attention", ["string:40/8", "streaming:4/40", "lm-infinite:4/40"])
def test_narrow_caches_round_no_more_than_under_plain_attention(tiny_gguf, ids, attention, cache_type):
    path = tiny_gguf(context_length=64, heads=2, kv_heads=1, head_dim=32)
    with dca.Model(path) as model:

        def error(method):
            scores = []
            for cache in (cache_type, "f32"):
                with model.session(context=N, attention=method, cache_type=cache) as session:
                    scores.append(session.score(ids))
            return np.abs(scores[0] - scores[1]).mean()

        assert error(attention) < 3 * error("plain") + 1e-4


@pytest.mark.filterwarnings("ignore::dca_runtime.DcaWarning")
@settings(max_examples=25, deadline=None)
@given(method=methods(), data=st.data())
def test_sequences_of_an_engine_get_what_they_get_alone(model, ids, method, data):
    attention, scheme, matrix = method
    lengths = data.draw(st.lists(st.integers(2, 200), min_size=1, max_size=5))
    shared = data.draw(st.integers(1, min(lengths)))
    with model.engine(tokens=4096, attention=attention, scheme=scheme, cache_type="f32") as engine:
        first = engine.sequence()
        engine.eval([(first, ids[:shared])])
        texts = [
            np.concatenate((ids[:shared], np.roll(ids, n)[: length - shared]))
            for n, length in enumerate(lengths)
        ]
        texts = [text if len(text) > shared else np.append(text, 7) for text in texts]
        forks = [first.fork() for _ in texts]
        found = engine.eval([(fork, text[shared:]) for fork, text in zip(forks, texts, strict=True)])
        again = engine.eval([(fork, [9]) for fork in forks])
    for text, one, next_one in zip(texts, found, again, strict=True):
        expected = dense_logits(TINY, np.append(text, 9), matrix(len(text) + 1))
        assert np.abs(one - expected[-2]).max() < 2e-3
        assert np.abs(next_one - expected[-1]).max() < 2e-3


def test_a_saved_sequence_is_of_use_under_the_same_border_only(model, ids, tmp_path):
    path = tmp_path / "a.kv"
    with model.engine(tokens=1024, attention="string:40/8") as engine:
        sequence = engine.sequence()
        engine.eval([(sequence, ids)])
        sequence.save(path)
        expected = engine.eval([(sequence, [3])])[0]
    with model.engine(tokens=1024, attention="string:40/8") as engine:
        loaded = engine.load(path)
        np.testing.assert_array_equal(engine.eval([(loaded, [3])])[0], expected)
    for other in ("string:40/9", "string:41/8", "streaming:8/40", "lm-infinite:8/40", "plain"):
        with model.engine(tokens=1024, attention=other) as engine:
            with pytest.raises(dca.DcaError, match="attention"):
                engine.load(path)


def test_a_file_that_states_string_runs_it(tiny_gguf, ids):
    with dca.Model(tiny_gguf(context_length=64, border=(40, 8))) as model:
        assert model.info.border == "string:40/8" and model.scheme is None
        for attention in ("auto", "string", "string:40/8"):
            with model.session(context=N, attention=attention, cache_type="f32") as session:
                assert session.info.border == "string:40/8" and session.info.scheme is None
                found = session.eval(ids, all_logits=True)
                expected = dense_logits(TINY, ids, border_distances("string", 40, 8, N))
                assert np.abs(found - expected).max() < 2e-3
        with model.session(attention="plain") as session:
            assert session.info.border is None
        with model.session(scheme=(40, 8, 64)) as session:  # "auto" prefers what the caller says
            assert session.info.border is None and session.info.scheme is not None
        with model.engine(tokens=512) as engine:
            assert engine.info.border == "string:40/8"


@pytest.mark.parametrize("border", [(0, 0), (8, 9), (2**30 + 1, 4)])
def test_a_file_with_an_impossible_border_is_refused(tiny_gguf, border):
    with pytest.raises(dca.DcaError, match=r"llama\.attention\.string\."):
        dca.Model(tiny_gguf(border=border))


def test_a_file_states_one_of_scheme_and_border(tiny_gguf):
    with pytest.raises(dca.DcaError, match="states both"):
        dca.Model(tiny_gguf(scheme=(12, 4, 16), border=(8, 4)))


def test_string_without_a_border_anywhere_is_refused(model):
    with pytest.raises(dca.DcaError, match="neither the file nor the session options"):
        model.session(attention="string")


@pytest.mark.parametrize(
    "text",
    ["string:5", "string:4/9", "string:0/0", "streaming", "streaming:4", "streaming:4/0", "lm-infinite:a/5"]
    + ["string:40/8/1", "plain:4/2", "dca:1/2/3", "string:", "streaming:-1/5", "lm-infinite:4/1073741825"],
)
def test_names_that_cannot_be(model, text):
    with pytest.raises(dca.DcaError, match="attention"):
        model.session(attention=text)


@pytest.mark.parametrize("text", ["plain", "string", "string:40/8", "streaming:0/9", "lm-infinite:4/40"])
def test_names_are_read_as_they_are_written(text):
    assert parse(text).name == text


def test_a_border_has_no_scheme_and_no_sparse_prefill(model):
    with pytest.raises(dca.DcaError, match="leave scheme out"):
        model.session(attention="string:40/8", scheme=(40, 8, 64))
    with pytest.raises(dca.DcaError, match="use prefill dense"):
        model.session(attention="streaming:4/400", prefill="sparse:0.1")


def test_long_prompts_are_warned_of_by_their_distances(model):
    with model.session(attention="string:60/10", context=N) as session:
        with pytest.warns(dca.DcaWarning, match="string:60/10 puts them up to 149 apart"):
            model.warn_if_untrained(session, 200)
    with model.session(attention="streaming:4/60", context=N) as session:
        model.warn_if_untrained(session, N)


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1, 4), context=st.integers(10, N))
def test_dynamic_ntk_goes_by_the_length_that_a_session_is_made_for(model, ids, factor, context):
    grown = max(1.0, factor * context / 64 - (factor - 1))
    base = TINY.rope_base * grown ** (TINY.head_dim / (TINY.head_dim - 2))
    n = context // 2
    i, j = np.indices((n, n))
    expected = dense_logits(TINY, ids[:n], np.where(i >= j, i - j, -1), base)
    with model.session(
        context=context, rope=f"dynamic:{factor}", cache_type="f32", attention="plain"
    ) as session:
        assert np.abs(session.eval(ids[:n], all_logits=True) - expected).max() < 2e-3


def test_dynamic_ntk_shares_keys_with_sessions_of_the_same_base_only(model):
    options = {"rope": "dynamic:2", "attention": "plain"}
    with (
        model.session(context=200, **options) as one,
        model.session(context=200, **options) as same,
        model.session(context=201, **options) as other,
    ):
        assert one.exact_prefix(same) == 2**31
        assert one.exact_prefix(other) == 0


def test_an_engine_has_no_length_for_dynamic_ntk(model):
    with pytest.raises(dca.DcaError, match="use rope ntk"):
        model.engine(rope="dynamic:2")
