"""Sessions: what eval, score and truncate promise, lifetimes, cancelling, wrong arguments."""

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

import dca_runtime as dca
from dca_runtime.options import Scheme

SCHEME = (12, 4, 16)
CHUNKED = dict(scheme=SCHEME, context_length=16)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(**CHUNKED)) as model:
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, 320, 50).tolist()


def close_to(wanted):
    # The order of f32 sums differs with how tokens are fed; logits here are of order 1.
    return pytest.approx(wanted, abs=2e-4)


def test_last_logits_are_the_last_row_of_all(model, ids):
    with model.session(cache_type="f32") as session:
        every = session.eval(ids, all_logits=True)
    with model.session(cache_type="f32") as session:
        last = session.eval(ids)
    assert every.shape == (50, 320) and every.dtype == last.dtype == np.float32
    assert last == close_to(every[-1])


@pytest.mark.parametrize("attention", ["plain", "dca", "intra", "intra+inter"])
@pytest.mark.parametrize("piece", [1, 7, 23])
def test_feeding_in_pieces_changes_nothing(model, ids, attention, piece):
    with model.session(attention=attention, cache_type="f32") as session:
        whole = session.eval(ids, all_logits=True)
    with model.session(attention=attention, cache_type="f32") as session:
        pieces = [session.eval(ids[i : i + piece], all_logits=True) for i in range(0, len(ids), piece)]
        assert session.length == len(ids)
    assert np.concatenate(pieces) == close_to(whole)


def test_attentions_differ_beyond_a_chunk_and_only_there(model, ids):
    logits = {}
    for attention in ["plain", "dca", "intra", "intra+inter"]:
        with model.session(attention=attention, cache_type="f32") as session:
            logits[attention] = session.eval(ids, all_logits=True)
    for attention in ["dca", "intra", "intra+inter"]:
        assert logits[attention][:12] == close_to(logits["plain"][:12])
    names = list(logits)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert np.abs(logits[first][40:] - logits[second][40:]).max() > 0.01, (first, second)


def test_auto_is_the_files_scheme(model, ids):
    with model.session(attention="auto") as auto, model.session(attention="dca") as chunked:
        assert auto.info.scheme == Scheme(*SCHEME)
        np.testing.assert_array_equal(auto.eval(ids), chunked.eval(ids))


def test_a_scheme_given_to_the_session_wins(model, tiny_gguf, ids):
    other = (8, 2, 12, 0.1, 8)
    with model.session(scheme=other, cache_type="f32") as session:
        assert session.info.scheme == pytest.approx(Scheme(*other))
        overridden = session.eval(ids)
    with dca.Model(tiny_gguf(**CHUNKED | dict(scheme=other))) as same:
        with same.session(cache_type="f32") as session:
            assert overridden == close_to(session.eval(ids))


def test_plain_has_no_scheme_in_force(model):
    with model.session(attention="plain") as session:
        assert session.info.scheme is None


@pytest.mark.parametrize(
    ("attention", "in_force"), [("dca", (12, 4, 16)), ("intra", (12, 0, 16)), ("intra+inter", (12, 0, 16))]
)
def test_the_scheme_in_force_has_a_local_window_only_with_successive_chunks(model, attention, in_force):
    with model.session(attention=attention) as session:
        assert session.info.scheme == Scheme(*in_force)


def test_the_scheme_in_force_keeps_the_logit_scale_of_an_ablation(tiny_gguf):
    with (
        dca.Model(tiny_gguf(scheme=(12, 4, 16, 0.5, 32))) as model,
        model.session(attention="intra") as session,
    ):
        assert session.info.scheme == Scheme(12, 0, 16, 0.5, 32)


def test_score_is_the_negative_log_likelihood(model, ids):
    with model.session(cache_type="f32") as session:
        logits = session.eval(ids, all_logits=True).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = -log_p[np.arange(49), ids[1:]]
    nll = model.score(ids, cache_type="f32")
    assert nll.shape == (49,) and nll.dtype == np.float32
    assert nll == close_to(wanted)


def test_score_continues_a_session(model, ids):
    with model.session(cache_type="f32") as session:
        session.append(ids[:20])
        assert session.score(ids[20:]) == close_to(model.score(ids, cache_type="f32")[20:])
        assert session.length == len(ids)


def test_truncate_forgets_exactly_what_it_should(model, ids):
    with model.session(cache_type="f32") as session:
        wanted = session.eval(ids)
        session.truncate(20)
        assert session.length == 20
        session.append([5, 6, 7] * 5)
        session.truncate(20)
        assert session.eval(ids[20:]) == close_to(wanted)
        session.truncate(0)
        assert session.eval(ids) == close_to(wanted)


def rounding(cache_type):
    """Root mean square of what a cache type's rounding leaves of heads of 16 standard normal values."""
    heads = np.random.default_rng(7).standard_normal((4096, 16)).astype(np.float32)
    if cache_type == "f16":
        kept = heads.astype(np.float16).astype(np.float32)
    elif cache_type == "bf16":
        kept = ((heads.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    else:
        scale = np.abs(heads).max(axis=1, keepdims=True) / 127
        kept = np.rint(heads / scale) * scale
    return float(np.sqrt(np.mean((kept - heads) ** 2)))


# tiny.py's queries and keys have a gain of 2 each: scores of standard deviation 4, so keys off by r move
# the weights of values by 4 r, and values are off by r themselves, in each of two layers. To first order,
# these being independent, logits (of standard deviation 1) are off by sqrt(2 (4² + 1)) r. Twice that for
# one draw of weights.
GAIN = np.sqrt(2 * (4**2 + 1))


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8"])
def test_smaller_caches_round_as_their_type_does(model, ids, cache_type):
    with model.session(cache_type="f32") as exact, model.session(cache_type=cache_type) as session:
        wanted = exact.eval(ids, all_logits=True)
        off = session.eval(ids, all_logits=True) - wanted
        assert session.info.cache_bytes < exact.info.cache_bytes
    assert wanted.std() == pytest.approx(1, abs=0.1)
    assert rounding(cache_type) < np.sqrt(np.mean(off**2)) < 2 * GAIN * rounding(cache_type)


def test_prefill_block_changes_nothing(model, ids):
    with (
        model.session(cache_type="f32") as default,
        model.session(cache_type="f32", prefill_block=3) as small,
    ):
        assert small.eval(ids) == close_to(default.eval(ids))


# A full context


def test_too_many_tokens_is_said_and_leaves_the_session_as_it_was(model, ids):
    with model.session(context=30) as session:
        session.append(ids[:20])
        with pytest.raises(dca.DcaError, match="30") as caught:
            session.eval(ids[:11])
        assert caught.value.status == dca.Status.CONTEXT
        assert session.length == 20
        session.eval(ids[:10])
        assert session.length == session.info.context == 30


# Cancelling


def test_progress_reports_tokens_up_to_all(model, ids):
    seen = []
    with model.session(prefill_block=10, progress=lambda *counts: seen.append(counts)) as session:
        session.eval(ids)
    assert len(seen) > 1 and all(done <= total == 50 for done, total in seen)
    assert seen == sorted(seen)


@pytest.mark.parametrize("call", ["eval", "score", "append"])
def test_raising_in_progress_cancels(model, ids, call):
    def stop(done, total):
        raise ValueError("enough")

    with model.session(prefill_block=10, progress=stop) as session:
        with pytest.raises(ValueError, match="enough"):
            getattr(session, call)(ids)
        assert session.length == 0


def test_a_cancelled_session_goes_on(model, ids):
    raising = [True]

    def stop_once(done, total):
        if raising.pop() if raising else False:
            raise ValueError("enough")

    with model.session(prefill_block=10, progress=stop_once, cache_type="f32") as session:
        with pytest.raises(ValueError, match="enough"):
            session.eval(ids)
        with model.session(cache_type="f32") as fresh:
            assert session.eval(ids) == close_to(fresh.eval(ids))


@pytest.mark.parametrize("watched", [True, False])
def test_ctrl_c_ends_a_native_call(tiny_gguf, watched):
    # 12,000 tokens take far longer than the timer; the interrupt has to end the call early.
    ids = np.zeros(12_000, np.int32)
    progress = (lambda done, total: None) if watched else None
    with dca.Model(tiny_gguf(layers=8)) as model, model.session(context=12_000, progress=progress) as session:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            session.score(ids)
            time.sleep(5)  # the interrupt must come somewhere, if not in the call
        timer.join()
        assert session.length == 0


# Lifetimes


def test_use_after_close_raises(model, ids):
    session = model.session()
    session.close()
    session.close()
    for use in (lambda: session.eval(ids), lambda: session.length, lambda: session.truncate(0)):
        with pytest.raises(dca.DcaError, match="closed"):
            use()


def test_closing_the_model_closes_its_sessions(tiny_gguf, ids):
    model = dca.Model(tiny_gguf())
    session = model.session()
    model.close()
    model.close()
    with pytest.raises(dca.DcaError, match="closed"):
        session.eval(ids)
    with pytest.raises(dca.DcaError, match="closed"):
        model.session()
    assert model.info.n_vocab == 320


def test_a_session_keeps_its_model(tiny_gguf, ids):
    session = dca.Model(tiny_gguf()).session()
    gc.collect()
    assert session.eval(ids).shape == (320,)


def test_garbage_in_any_order_is_freed(tiny_gguf, ids):
    for _ in range(20):
        model = dca.Model(tiny_gguf())
        model.mine = model.session()  # a cycle: the collector frees both in an order of its own
        model.mine.append(ids)
        del model
    gc.collect()


def test_a_session_refuses_a_second_user(model, ids):
    caught = []

    def intrude(done, total):
        for use in (lambda: session.eval(ids), session.close, lambda: session.info):
            with pytest.raises(dca.DcaError, match="busy") as error:
                use()
            caught.append(error)

    with model.session(prefill_block=10, progress=intrude) as session:
        session.eval(ids)
    assert caught


def test_threads_share_a_model(model, ids):
    results = {}

    def work(name):
        with model.session(cache_type="f32") as session:
            results[name] = session.eval(ids)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for logits in results.values():
        assert logits == close_to(results[0])


# Wrong arguments


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([], "at least 1"),
        ([[1, 2]], "one dimension"),
        ([[1], [1, 2]], "one dimension"),
        (3, "one dimension"),
        ([1, 320], "320 at index 1"),
        ([-1], "-1 at index 0"),
        ([2**40], f"{2**40} at index 0"),
        (np.array([5, 2**32 + 5], np.uint64), f"{2**32 + 5} at index 1"),
        ([-(2**31) - 1], "at index 0"),
        ([0.5], "integers"),
        (["a"], "integers"),
        (np.array([1.0]), "integers"),
        ([True, False], "integers"),
    ],
)
def test_wrong_ids_are_named(model, ids, says):
    with model.session() as session, pytest.raises(dca.DcaError, match=says):
        session.eval(ids)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda ids: np.array(ids, np.uint16)])
def test_ids_of_any_integer_kind(model, ids, kind):
    with model.session() as session:
        session.append(kind(ids))
        assert session.length == 50


def test_score_needs_two(model):
    with pytest.raises(dca.DcaError, match="at least 2"):
        model.score([1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention": "dual"}, "attention"),
        ({"attention": "string:" + "9" * 5000 + "/1"}, "attention"),
        ({"cache_type": "f8"}, "cache_type"),
        ({"context": -1}, "context"),
        ({"context": 0}, "context"),
        ({"context": 2**40}, "context"),
        ({"prefill_block": -1}, "prefill_block"),
        ({"scheme": (1, 2)}, "scheme"),
        ({"scheme": (16, 0, 16)}, "chunk_size"),
        ({"scheme": (12, 5, 16)}, "local_window"),
        ({"scheme": (12, 4, -1)}, "pretraining_length"),
        ({"scheme": (12, 4, 16, 0.1, 0.5)}, "logit_scale_length"),
    ],
)
def test_wrong_options_are_named(model, options, says):
    with pytest.raises(dca.DcaError, match=says):
        model.session(**options)


def test_dca_needs_a_scheme(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, pytest.raises(dca.DcaError, match="scheme"):
        model.session(attention="dca")


@pytest.mark.parametrize("length", [-1, 6, 2**32, 1.5, "3", None])
def test_wrong_truncation_is_named(model, ids, length):
    with model.session() as session:
        session.append(ids[:5])
        with pytest.raises(dca.DcaError, match=str(length)):
            session.truncate(length)
        assert session.length == 5


def test_a_session_knows_its_tokens(model, tmp_path):
    with model.session() as session, model.session() as other:
        assert session.ids.tolist() == []
        session.eval([5, 6, 7])
        session.append([8])
        session.truncate(2)
        session.score([9, 10])
        assert session.ids.tolist() == [5, 6, 9, 10] and session.ids.dtype == np.int32
        other.copy_prefix(session, 3)
        assert other.ids.tolist() == [5, 6, 9]
        session.save(tmp_path / "saved")
        other.load(tmp_path / "saved")
        assert other.ids.tolist() == [5, 6, 9, 10]
        with pytest.raises(dca.DcaError):
            other.eval([10**6])
        assert other.ids.tolist() == [5, 6, 9, 10]
