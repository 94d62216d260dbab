"""Choices that the library makes where a session has its logits are those of a Sampler that sees them."""

import numpy as np
import pytest
from tiny import Tiny, tiny_weights, write_tiny_gguf

import dca_runtime as dca
from dca_runtime.sampling import Sampler, Sampling

WAYS = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.2, "min_p": 0.0, "seed": 3},
    "filtered": {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "seed": 4},
    "penalties": {
        "temperature": 0.0,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
    },
    "a short window": {"temperature": 1.0, "repeat_penalty": 2.0, "repeat_window": 3, "seed": 5},
    "biases": {"temperature": 0.0, "logit_bias": {9: 2.0, 10: -1.0}},
}
IDS = np.random.default_rng(1).integers(0, 320, 40).tolist()


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16), context_length=16), threads=1) as model:
        yield model


def picked(logits, before, sampling):
    """What a Sampler picks from each row of logits; the tokens seen are ``before`` and one more a row."""
    chosen = []
    for at, row in enumerate(logits):
        sampler = Sampler(sampling)
        sampler.see(before[: len(before) - len(logits) + at + 1])
        chosen.append(sampler.pick(row))
    return chosen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block", [0, 5])  # a call's tokens in one step, and in several
def test_every_choice_is_that_of_a_sampler(model, way, block):
    sampling = Sampling(**WAYS[way])
    with model.session(128, prefill_block=block) as one, model.session(128, prefill_block=block) as other:
        held: list[int] = []
        for count in (1, 7, 13, 2, 1, 16):
            new = IDS[len(held) : len(held) + count]
            held += new
            logits = one.eval(new, all_logits=True)
            assert other.sample(new, sampling, every=True) == picked(logits, held, sampling)
            assert other.length == one.length == len(held)


@pytest.mark.parametrize("way", WAYS)
def test_without_every_only_the_last_token_is_chosen_after(model, way):
    sampling = Sampling(**WAYS[way])
    with model.session(128) as one, model.session(128) as other:
        assert other.sample(IDS, sampling) == picked([one.eval(IDS)], IDS, sampling)


def test_without_a_seed_each_call_draws_another(model):
    sampling = Sampling(temperature=5.0, min_p=0.0)
    with model.session(128) as session:
        chosen = set()
        for _ in range(20):
            session.truncate(0)
            chosen.update(session.sample([5], sampling))
    assert len(chosen) > 5


def test_nothing_to_choose_leaves_the_session_as_it_was(tmp_path):
    tiny = Tiny()
    weights = tiny_weights(tiny)
    weights["output.weight"][:] = np.nan
    write_tiny_gguf(tmp_path / "nan.gguf", tiny, weights)
    with dca.Model(tmp_path / "nan.gguf", threads=1) as model, model.session(64) as session:
        session.append([1, 2])
        with pytest.raises(dca.DcaError, match="no token may be chosen.*not numbers"):
            session.sample([3, 4], Sampling(), every=True)
        assert session.ids.tolist() == [1, 2]


@pytest.mark.parametrize("ids", [[], [320], [-1], [5] * 129])
def test_ids_that_eval_refuses_are_refused(model, ids):
    with model.session(128) as session:
        with pytest.raises(dca.DcaError):
            session.sample(ids, Sampling(), every=True)
        with pytest.raises(dca.DcaError):
            session.sample(ids, Sampling())
        assert session.length == 0


def test_biases_that_change_between_tokens_count(model):
    biases = {}
    sampling = Sampling(temperature=0.0, logit_bias=biases)
    with model.session() as session:
        session.sample([5], sampling)
        biases[7] = 1000.0
        assert session.sample([5], sampling) == [7]
