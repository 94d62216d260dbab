"""Scores and continuations in batches are those of one sequence alone."""

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.harness.runner import Continued, Runner, Scored


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(96, 32, 128), context_length=128)) as model:
        yield model


@pytest.fixture
def runner(model):
    made = Runner(model, 7, 4096, cache_type="f32")
    yield made
    made.close()


def requests(count=30, seed=0):
    """Some share a document, some a question too; contexts of one token, continuations of one to many."""
    random = np.random.default_rng(seed)
    document = random.integers(0, 320, 300).tolist()
    found = [Scored([5], [7, 9]), Scored(document[:1], [3])]
    for index in range(count):
        start = document if index % 3 else random.integers(0, 320, 40).tolist()
        context = [*start, *random.integers(0, 320, index % 5).tolist()]
        found.append(Scored(context, random.integers(0, 320, 1 + index % 4).tolist()))
    return found


def alone(model, request):
    """Oracle: softmax of all the logits of a session."""
    ids = [*request.context, *request.continuation]
    with model.session(context=len(ids), cache_type="f32") as session:
        logits = session.eval(ids, all_logits=True).astype(np.float64)
    logits = logits[len(request.context) - 1 : -1]
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    places = np.arange(len(request.continuation))
    greedy = bool((logits.argmax(axis=1) == request.continuation).all())
    return float(logits[places, request.continuation].sum()), greedy


def likeliest(model, context, count):
    """Oracle: greedy ids one by one."""
    ids = list(context)
    with model.session(context=len(ids) + count, cache_type="f32") as session:
        logits = session.eval(ids)
        for _ in range(count):
            ids.append(int(logits.argmax()))
            logits = session.eval(ids[-1:])
    return ids[len(context) :]


def test_scores_are_those_of_each_alone(model, runner):
    asked = requests()
    done = []
    found = runner.score(asked, done.append)
    assert sum(done) == len(asked)
    for request, (score, greedy) in zip(asked, found, strict=True):
        wanted, wanted_greedy = alone(model, request)
        assert score == pytest.approx(wanted, abs=1e-3) and greedy == wanted_greedy


def test_it_knows_when_every_token_is_the_likeliest(model, runner):
    contexts = [[5, 6, 7], [9] * 20, list(range(150))]
    greedy = [likeliest(model, context, 4) for context in contexts]
    asked = [Scored(c, g) for c, g in zip(contexts, greedy, strict=True)]
    asked += [Scored(c, [*g[:3], (g[3] + 1) % 320]) for c, g in zip(contexts, greedy, strict=True)]
    found = [answer for _, answer in runner.score(asked, lambda _: None)]
    assert found == [True] * 3 + [False] * 3


def test_a_document_is_read_once_for_all_questions(model):
    document = list(np.random.default_rng(1).integers(0, 320, 2000))
    asked = [Scored([*document, 5, index], [7]) for index in range(40)]
    runner = Runner(model, 40, 32768)
    runner.score(asked, lambda _: None)
    runner.close()
    assert runner.read <= len(document) + 40 * 4


def test_texts_are_those_of_each_alone(model, runner):
    contexts = [request.context for request in requests(12)]
    sampling = dca.Sampling(temperature=0.0)
    found = runner.generate([Continued(c, 9, [], sampling) for c in contexts], lambda _: None)
    for context, text in zip(contexts, found, strict=True):
        with model.session(context=400, cache_type="f32") as session:
            assert text == "".join(model.generate(context, 9, session, temperature=0.0))


def test_a_stop_text_ends_one_and_not_the_others(model, runner):
    sampling = dca.Sampling(temperature=0.0)
    whole = runner.generate([Continued([5, 6, 7], 12, [], sampling)], lambda _: None)[0]
    stop = whole[3:5]
    found = runner.generate(
        [Continued([5, 6, 7], 12, [stop], sampling), Continued([5, 6, 7], 12, [], sampling)], lambda _: None
    )
    assert found == [whole[: whole.index(stop)], whole]


def test_a_request_larger_than_the_pool_makes_it_larger(model):
    runner = Runner(model, 4, 256, cache_type="f32")
    request = Scored(list(np.random.default_rng(2).integers(0, 320, 900)), [1, 2])
    (score, _), *_ = runner.score([request], lambda _: None)
    runner.close()
    assert score == pytest.approx(alone(model, request)[0], abs=1e-3)
