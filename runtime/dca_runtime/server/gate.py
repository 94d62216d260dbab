"""What every request passes before its route: an id, the key, the size of its body, and the access log."""

import asyncio
import hmac
import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dca_runtime.server.answering.answer import Answer
from dca_runtime.server.answering.streaming import JsonAnswer
from dca_runtime.server.errors import ApiError
from dca_runtime.server.settings import Settings

_log = logging.getLogger("dca_serve.access")
_OPEN_PATHS = {"/", "/health"}  # need no key, nor do static files
_OPEN_PREFIX = "/page/"
_BODY_SECONDS = 120.0  # for a client to send its body
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        start, status = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])["X-Request-Id"] = request_id
            await send(message)

        try:
            try:
                self._check_key(scope, headers)
                body = await self._body(headers, receive) if scope["method"] == "POST" else None
            except ApiError as error:
                await JsonAnswer(error.body(), error.status, error.headers())(scope, receive, noting)
            else:
                # HEAD is GET whose body nobody sends: monitors ask so whether a server is there.
                route = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(route, receive if body is None else _replayed(body, receive), noting)
        finally:
            line = {
                "id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(time.monotonic() - start, 4),
                "client": (scope.get("client") or ("",))[0],
            }
            answer: Answer | None = scope.get("state", {}).get("answer")
            if answer is not None:
                line |= {
                    "prompt_tokens": answer.prompt_tokens,
                    "cached_tokens": answer.cached_tokens,
                    "completion_tokens": answer.completion_tokens,
                }
                if answer.prompt_text is not None:
                    line["prompt"] = answer.prompt_text
            _log.info(json.dumps(line))

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        key, path = self._settings.api_key, scope["path"]
        if (
            key is None
            or path in _OPEN_PATHS
            or path.startswith(_OPEN_PREFIX)
            or scope["method"] == "OPTIONS"
        ):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        if not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise ApiError(401, "this server needs a key: Authorization: Bearer KEY", code="invalid_api_key")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, which is no larger than is allowed. Raises ApiError."""
        most = self._settings.max_body
        stated = headers.get("content-length", "0")
        if stated.isdigit() and int(stated) > most:
            raise _too_large(most)
        pieces, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "the client left", code="client_closed_request")
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {_BODY_SECONDS:g} s") from None


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was received, then whatever comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
