"""Sequences that sleep: their pages are free for others, and they go on as they were."""

import numpy as np
import pytest

import dca_runtime as dca

SCHEME = (100, 30, 160)
IDS = np.random.default_rng(5).integers(0, 320, 700).astype(np.int32)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=SCHEME, head_dim=64, context_length=160), threads=1) as model:
        yield model


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
@pytest.mark.parametrize("length", [1, 128, 200])
def test_a_sequence_goes_on_as_if_it_had_not_slept(model, cache_type, length):
    with model.engine(tokens=512, cache_type=cache_type) as engine:
        a, b = engine.sequence(), engine.sequence()
        engine.eval([(a, IDS[:length]), (b, IDS[:length])], logits=False)
        a.sleep()
        assert a.asleep and a.length == length and np.array_equal(a.ids, IDS[:length])
        with engine.sequence() as other:  # over the pages that it left
            engine.eval([(other, IDS[300:500])], logits=False)
        found, expected = (engine.eval([(each, IDS[600:602])])[0] for each in (a, b))
        assert not a.asleep
    assert np.array_equal(found, expected)


def test_more_conversations_than_the_pool_holds(model):
    with model.engine(tokens=512) as engine:
        sequences = []
        for n in range(6):
            sequences.append(engine.sequence())
            engine.eval([(sequences[-1], IDS[n : n + 300])], logits=False)
            sequences[-1].sleep()
        assert engine.info.tokens_used == 0
        found = []
        for sequence in sequences:
            found += engine.eval([(sequence, [7])])
            sequence.sleep()
    with model.engine(tokens=4096) as engine:
        for n, logits in enumerate(found):
            (expected,) = engine.eval([(engine.sequence(), [*IDS[n : n + 300], 7])])
            np.testing.assert_allclose(logits, expected, atol=2e-2)


def test_waking_takes_pages_or_says_that_they_are_short(model):
    with model.engine(tokens=512) as engine:
        a, b = engine.sequence(), engine.sequence()
        engine.eval([(a, IDS[:300])], logits=False)
        a.sleep()
        engine.eval([(b, IDS[:250])], logits=False)
        message = "a sleeping sequence of 300 tokens takes 3 pages of 128, 2 are free"
        for use in (a.wake, a.fork, lambda: a.truncate(1), lambda: engine.eval([(a, [1])])):
            with pytest.raises(dca.DcaError, match=message) as error:
                use()
            assert error.value.status == dca.Status.CONTEXT
            assert a.asleep and a.length == 300
        a.sleep()  # sleeps already: takes no pages
        assert a.asleep and engine.info.tokens_used == 256
        b.close()
        a.wake()
        assert not a.asleep and engine.info.tokens_used == 384


def test_what_is_shared_stays_with_the_others(model):
    with model.engine(tokens=1024) as engine:
        a = engine.sequence()
        engine.eval([(a, IDS[:300])], logits=False)
        b = a.fork()
        a.sleep()
        assert engine.info.tokens_used == 384
        (found,) = engine.eval([(b, [7])])
        (slept,) = engine.eval([(a, [7])])
    assert np.array_equal(found, slept)


def test_an_empty_one_and_one_that_sleeps_already(model):
    with model.engine(tokens=512) as engine:
        a = engine.sequence()
        a.sleep()
        assert not a.asleep
        engine.eval([(a, IDS[:3])], logits=False)
        a.sleep()
        a.sleep()
        a.wake()
        a.wake()
        (logits,) = engine.eval([(a, IDS[3:4])])
        assert np.isfinite(logits).all()
        a.sleep()
        a.close()
        assert engine.info.tokens_used == 0


def test_a_sleeping_sequence_can_be_saved(model, tmp_path):
    with model.engine(tokens=512) as engine:
        a = engine.sequence()
        engine.eval([(a, IDS[:150])], logits=False)
        a.save(tmp_path / "awake")
        a.sleep()
        a.save(tmp_path / "asleep")
    assert (tmp_path / "awake").read_bytes() == (tmp_path / "asleep").read_bytes()
