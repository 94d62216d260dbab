"""Answers over HTTP: streams of server-sent events and whole ones, ended when their client leaves."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dca_runtime.server.answering.answer import Answer, Whole, collected
from dca_runtime.server.errors import ApiError
from dca_runtime.server.exchange import Left
from dca_runtime.server.looks import Looks
from dca_runtime.server.settings import Settings

_Result = TypeVar("_Result")
_PING = b": still here\n\n"  # a comment, which clients pass over
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_LOOKS = 4  # at a client that takes nothing, before it is let go


def dumps(value: Any) -> bytes:
    """JSON without white space; what is no Unicode (half a surrogate pair) becomes "?"."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + dumps(value) + b"\n\n"


class TextEvents:
    """Events that differ in their text alone: the rest is made into JSON once an answer, not once a token."""

    _MARK = "\u241f the text \u241f"

    def __init__(self, value: Callable[[int, str], Any]) -> None:
        """value: of an event, for an answer's index and a text."""
        self._value = value
        self._around: dict[int, list[bytes]] = {}  # by index

    def of(self, index: int, text: str) -> bytes:
        """The event."""
        around = self._around.get(index)
        if around is None:
            around = self._around[index] = event(self._value(index, self._MARK)).split(dumps(self._MARK))
        return dumps(text).join(around)


class JsonAnswer(Response):
    """A whole answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content)


class EventStream(Response):
    """A stream of events, which ends its answer when the client leaves or takes nothing for too long.

    It costs no task, no second wait and no timer a piece: all readers get theirs while the next step runs.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], answer: Answer, settings: Settings) -> None:
        """events: an empty piece says that nothing came for a while."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        answer.ping_seconds = settings.ping_seconds
        self._events = events
        self._answer = answer
        self._slow_seconds = settings.slow_reader_seconds
        self._sending: float | None = None  # since when the client has not taken a piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        leaving = asyncio.ensure_future(self._leave(receive))
        try:
            async with asyncio.timeout(None) as patience:
                with Looks(self._slow_seconds / _LOOKS, lambda: self._look(patience)):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    async for piece in self._events:
                        if leaving.done():
                            return
                        self._sending = time.monotonic()
                        await send({"type": "http.response.body", "body": piece or _PING, "more_body": True})
                        self._sending = None
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (Left, TimeoutError):
            return  # the server closes the connection of an answer that is not whole
        finally:
            self._answer.exchange.cancel()
            leaving.cancel()
            await self._events.aclose()

    def _look(self, patience: asyncio.Timeout) -> float | None:
        """Ends ``patience`` with a client that takes nothing, within a quarter more than its time."""
        now = time.monotonic()
        if self._sending is not None and now - self._sending >= self._slow_seconds:
            patience.reschedule(asyncio.get_running_loop().time())
            return None
        return self._slow_seconds / _LOOKS

    async def _leave(self, receive: Receive) -> None:
        await _disconnected(receive)
        self._answer.exchange.leave()


async def unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of ``work``, which is cancelled when the client leaves: ApiError then."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client left", code="client_closed_request")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def begun(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer once its prompt is being read. Raises ApiError: it will not be, or the client left."""
    request.state.answer = answer = await unless_gone(request, work)
    return answer


async def whole(request: Request, work: Coroutine[Any, Any, Answer]) -> tuple[Answer, list[Whole]]:
    """The answers of a request once they are whole. Raises ApiError."""

    async def all_of_it() -> tuple[Answer, list[Whole]]:
        request.state.answer = answer = await work
        try:
            return answer, await collected(answer)
        finally:
            answer.exchange.cancel()

    return await unless_gone(request, all_of_it())
