"""Streams that nobody reads, that are silent, or whose client leaves."""

import asyncio
import json

import pytest

from dca_runtime.server.answering.streaming import EventStream, dumps, event
from dca_runtime.server.settings import Settings

SCOPE = {"type": "http"}


class Answer:
    """Stands for an answer: notes that it was cancelled."""

    def __init__(self):
        self.cancelled = False
        self.exchange = self

    def cancel(self):
        self.cancelled = True

    leave = cancel


async def never():
    await asyncio.Event().wait()


async def leaves_after(seconds):
    await asyncio.sleep(seconds)
    return {"type": "http.disconnect"}


def stream(events, receive=never, send=None, **settings):
    """What was sent of a stream, and whether its answer was cancelled at the end."""
    sent, answer = [], Answer()

    async def note(message):
        sent.append(message)
        if send is not None:
            await send(message)

    response = EventStream(events, answer, Settings("tiny", **settings))
    asyncio.run(asyncio.wait_for(response(SCOPE, receive, note), 10))
    return sent, answer.cancelled


async def some(*pieces, pause=0.0):
    for piece in pieces:
        await asyncio.sleep(pause)
        yield piece


async def endless():
    while True:
        yield b"x"
        await asyncio.sleep(0)


def test_a_stream_comes_whole():
    sent, cancelled = stream(some(b"a", b"b"))
    assert sent[0]["status"] == 200
    assert [message["body"] for message in sent[1:]] == [b"a", b"b", b""]
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]
    assert cancelled  # which does nothing to what is over


def test_an_empty_piece_becomes_a_comment():
    sent, _ = stream(some(b"", b"late"))
    comment, *rest = [message["body"] for message in sent[1:]]
    assert comment.startswith(b":") and comment.endswith(b"\n\n") and rest == [b"late", b""]


def test_a_client_that_leaves_ends_it():
    sent, cancelled = stream(endless(), receive=lambda: leaves_after(0.1))
    assert cancelled and sent[-1]["more_body"]


def test_a_client_that_takes_nothing_is_let_go():
    async def stuck(message):
        if message["type"] == "http.response.body":
            await never()

    sent, cancelled = stream(endless(), send=stuck, slow_reader_seconds=0.2)
    assert cancelled and len(sent) == 2


@pytest.mark.parametrize("text", ["ä", "\ud800", "a\nb", "\u2028"])
def test_events_are_one_line_of_valid_json(text):
    data = event({"text": text})
    assert data.startswith(b"data: ") and data.endswith(b"\n\n") and data.count(b"\n") == 2
    assert json.loads(data[6:])["text"] == text.encode("utf-8", "replace").decode()
    assert dumps({"a": [1]}) == b'{"a":[1]}'
