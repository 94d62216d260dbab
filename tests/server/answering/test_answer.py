"""From tokens to deltas: thoughts, stop texts and counts together."""

import asyncio

import pytest

from dca_runtime import Model, Sampling
from dca_runtime.server.answering.answer import Answer, Reading, collected
from dca_runtime.server.answering.tools import HERMES
from dca_runtime.server.exchange import Exchange, Left
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Finished, Job, Token


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    with Model(tiny_model, threads=1) as model:
        yield model.tokenizer


@pytest.fixture
def read(tokenizer):
    """``read(text, **fields of Reading)``: the answer of a model that writes ``text`` byte by byte."""

    def read(text, reason="stop", **fields):
        async def run():
            exchange = Exchange(Metrics("tiny"), lambda: None)
            exchange.add(Job([1], 100, Sampling(), lambda event: None))
            answer = Answer(exchange, tokenizer, Reading(**fields))
            ids = [id_ for character in text for id_ in tokenizer.encode(character, add_special=False)]
            for id_ in ids:
                exchange.deliver(0, Token(id_, None, []))
            exchange.deliver(0, Finished(reason))
            (whole,) = await collected(answer)
            return answer, whole, exchange

        return asyncio.run(run())

    return read


def test_thoughts_are_told_apart_and_counted(read):
    answer, whole, _ = read("<think>hm</think>\n\nYes.", thoughts=True)
    assert (whole.thought, whole.text, whole.finish) == ("hm", "Yes.", "stop")
    assert answer.thought_tokens == len("hm</think>")
    assert answer.completion_tokens == len("<think>hm</think>\n\nYes.")


def test_a_stop_text_ends_the_answer_and_the_job(read):
    answer, whole, exchange = read("one two three", stop=("two",), reason="length")
    assert (whole.text, whole.finish) == ("one ", "stop")
    assert answer.stop_texts == {0: "two"}
    assert answer.completion_tokens == len("one two")


def test_what_only_began_like_a_stop_text_is_given_at_the_end(read):
    _, whole, _ = read("one tw", stop=("two",), reason="length")
    assert (whole.text, whole.finish) == ("one tw", "length")


def test_thoughts_then_a_call(read):
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "ä"}}\n</tool_call>'
    _, whole, _ = read(f"<think>\nhm\n</think>\n\nWell.\n{call}", thoughts=True, calls=HERMES)
    assert (whole.thought, whole.text) == ("hm", "Well.")
    assert [(one.name, one.arguments) for one in whole.calls] == [("f", '{"a": "ä"}')]
    assert whole.finish == "tool_calls"


def test_a_call_that_a_limit_cut_says_so(read):
    _, whole, _ = read('<tool_call>\n{"name": "f", "arguments": {"a"', calls=HERMES, reason="length")
    assert whole.finish == "length"


@pytest.fixture
def open_answer(tokenizer):
    """``open_answer()``: (its exchange, an answer that nothing came of yet); for use on an event loop."""

    def make():
        exchange = Exchange(Metrics("tiny"), lambda: None)
        exchange.add(Job([1], 100, Sampling(), lambda event: None))
        return exchange, Answer(exchange, tokenizer, Reading())

    return make


def test_text_that_waited_for_its_reader_comes_in_one_piece(open_answer, tokenizer):
    async def run():
        exchange, answer = open_answer()
        for id_ in tokenizer.encode("many tokens", add_special=False):
            exchange.deliver(0, Token(id_, None, []))
        deltas = await anext(answer.deltas())
        return [delta.text for delta in deltas], answer.completion_tokens

    assert asyncio.run(run()) == (["many tokens"], len("many tokens"))


def test_a_silent_answer_says_so(open_answer):
    async def run():
        exchange, answer = open_answer()
        answer.ping_seconds = 0.05
        deltas = answer.deltas()
        silent = [await anext(deltas), await anext(deltas)]
        exchange.deliver(0, Finished("stop"))
        return silent, [delta.finish for delta in await anext(deltas)]

    assert asyncio.run(run()) == ([[], []], ["stop"])


def test_a_client_that_leaves_ends_the_waiting(open_answer):
    async def run():
        exchange, answer = open_answer()
        waiting = asyncio.ensure_future(anext(answer.deltas()))
        await asyncio.sleep(0)
        exchange.leave()
        with pytest.raises(Left):
            await waiting
        return exchange.jobs[0].cancelled

    assert asyncio.run(run())
