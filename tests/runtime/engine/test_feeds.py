"""What a step takes: single tokens and prompts, as lists and as arrays, of sequences that are open."""

import numpy as np
import pytest

from dca_runtime import DcaError, Model, Sampling

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf(), threads=1) as model:
        yield model


@pytest.fixture
def engine(model):
    with model.engine(tokens=2048, cache_type="f32") as engine:
        yield engine


PROMPTS = [
    [5],
    np.array([5], np.int32),
    np.array([5], np.int64),
    [7, 8, 9],
    np.arange(130),
    (5,),
    [np.int64(5)],
]


def test_a_mixed_step_chooses_what_each_alone_would(engine):
    alone = [engine.sample([(engine.sequence(), ids, GREEDY)])[0] for ids in PROMPTS]
    assert engine.sample([(engine.sequence(), ids, GREEDY) for ids in PROMPTS]) == alone


def test_lengths_grow_by_what_was_fed(engine):
    sequences = [engine.sequence() for _ in PROMPTS]
    engine.sample([(one, ids, GREEDY) for one, ids in zip(sequences, PROMPTS, strict=True)])
    assert [one.length for one in sequences] == [len(ids) for ids in PROMPTS]
    assert [one.ids.tolist() for one in sequences] == [list(ids) for ids in PROMPTS]


@pytest.mark.parametrize("ids", [[True], [5.0], [2**40], ["5"], [[5]], [320], [-1]])
def test_what_is_no_token_is_refused_beside_others(engine, ids):
    good, bad = engine.sequence(), engine.sequence()
    with pytest.raises(DcaError):
        engine.sample([(good, [5], GREEDY), (bad, ids, GREEDY)])
    assert good.length == bad.length == 0


def test_a_closed_sequence_is_refused_and_the_others_stay(engine):
    good, closed = engine.sequence(), engine.sequence()
    closed.close()
    for call in (
        lambda: engine.sample([(good, [5], GREEDY), (closed, [5], GREEDY)]),
        lambda: engine.eval([(good, [5]), (closed, [5])]),
        lambda: engine.score([(good, [5, 6]), (closed, [5, 6])]),
    ):
        with pytest.raises(DcaError, match="closed"):
            call()
    assert good.length == 0


def test_a_sequence_of_another_engine_is_refused(model, engine):
    with model.engine(tokens=256) as other, pytest.raises(DcaError, match="another engine"):
        engine.sample([(engine.sequence(), [5], GREEDY), (other.sequence(), [5], GREEDY)])


def test_samplings_with_a_mask_or_biases_are_not_taken_for_ones_without(engine):
    free = Sampling(temperature=0)
    (likeliest,) = engine.sample([(engine.sequence(), [5], free)])
    only = np.zeros((engine.n_vocab + 31) // 32, np.uint32)
    other = (likeliest + 1) % engine.n_vocab
    only[other // 32] = 1 << (other % 32)
    feeds = [(engine.sequence(), [5], free, only), (engine.sequence(), [5], free)]
    assert engine.sample(feeds) == [other, likeliest]
    against = Sampling(temperature=0, logit_bias={likeliest: -100.0})
    assert engine.sample([(engine.sequence(), [5], against)]) != [likeliest]
    assert engine.sample([(engine.sequence(), [5], free)]) == [likeliest]


def test_each_item_gets_the_log_probabilities_it_asked_for(engine):
    """All with the same sampling, twice: places for them are kept for the next step."""
    prompts = [[5], [6, 7], [8], [9]]
    sequences = [engine.sequence() for _ in prompts]
    forks = [one.fork() for one in sequences]
    for step in range(2):
        given = engine.choose(
            [(one, ids, GREEDY) for one, ids in zip(sequences, prompts, strict=True)], [3, None, 0, 3]
        )
        alone = [engine.choose([(one, ids, GREEDY)], 3)[0] for one, ids in zip(forks, prompts, strict=True)]
        assert [choice.token for choice in given] == [choice.token for choice in alone], step
        assert [len(choice.top) for choice in given] == [3, 0, 0, 3]
        assert np.isnan(given[1].logprob)
        for choice, own in ((given[0], alone[0]), (given[2], alone[2]), (given[3], alone[3])):
            assert choice.logprob == pytest.approx(own.logprob, abs=1e-4)
            assert choice.top == [] or choice.top[0] == (choice.token, choice.logprob)
        for choice, own in ((given[0], alone[0]), (given[3], alone[3])):
            assert [id_ for id_, _ in choice.top] == [id_ for id_, _ in own.top]


def test_as_many_numbers_of_log_probabilities_as_items(engine):
    with pytest.raises(DcaError, match="one for each of 1 items"):
        engine.choose([(engine.sequence(), [5], GREEDY)], [1, 2])


def test_no_more_log_probabilities_than_tokens(engine):
    (choice,) = engine.choose([(engine.sequence(), [5], GREEDY)], 1000)
    assert sorted(id_ for id_, _ in choice.top) == list(range(engine.n_vocab))


def test_biases_that_their_owner_changes_count_as_they_are(engine):
    (likeliest,) = engine.sample([(engine.sequence(), [5], GREEDY)])
    biases = {likeliest: -100.0}
    against = Sampling(temperature=0, logit_bias=biases)
    for _ in range(2):
        assert engine.sample([(engine.sequence(), [5], against)]) != [likeliest]
    biases[likeliest] = 0.0
    assert engine.sample([(engine.sequence(), [5], against)]) == [likeliest]


def test_an_items_own_window_is_its_own(engine):
    """One sampling for all of a step: penalties that count in nothing, in all, and as the sampling says."""
    prompt = [7] * 30
    against = Sampling(temperature=0, presence_penalty=100.0, repeat_window=30, logit_bias={7: 50.0})
    windows = [(None, 0), (None, 30), (), (None, 2**40), (None, 0)]
    for _ in range(2):
        items = [(engine.sequence(), prompt, against, *window) for window in windows]
        assert [id_ == 7 for id_ in engine.sample(items)] == [True, False, False, False, True]
