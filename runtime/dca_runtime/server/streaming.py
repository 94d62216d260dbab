"""Answers over HTTP: streams of server-sent events and whole ones, ended when their client leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dca_runtime.server.answer import Answer, Whole, collected
from dca_runtime.server.errors import ApiError
from dca_runtime.server.settings import Settings

_Result = TypeVar("_Result")
_PING = b": still here\n\n"  # a comment, which clients pass over


def dumps(value: Any) -> bytes:
    """JSON without white space; what is no Unicode (half a surrogate pair) becomes "?"."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + dumps(value) + b"\n\n"


class JsonAnswer(Response):
    """A whole answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content)


class EventStream(Response):
    """A stream of events, which ends its answer when the client leaves or takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], answer: Answer, settings: Settings) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._answer = answer
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        gone = asyncio.ensure_future(_disconnected(receive))
        coming: asyncio.Future[bytes | None] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                coming = coming or asyncio.ensure_future(_next(self._events))
                both: set[asyncio.Future[Any]] = {coming, gone}
                await asyncio.wait(
                    both, timeout=self._settings.ping_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    return
                body = _PING
                if coming.done():
                    piece = coming.result()
                    if piece is None:
                        break
                    body, coming = piece, None
                await asyncio.wait_for(self._send(send, body, True), self._settings.slow_reader_seconds)
            await self._send(send, b"", False)
        except TimeoutError:
            return  # the server closes the connection of an answer that is not whole
        finally:
            self._answer.exchange.cancel()
            gone.cancel()
            if coming is not None:
                coming.cancel()

    async def _send(self, send: Send, body: bytes, more: bool) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})


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


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    """The next event, None at the end."""
    async for piece in events:
        return piece
    return None
