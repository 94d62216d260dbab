"""What the OpenAPI page says of every route, and the service behind it."""

from typing import Any

from fastapi import Request

from dca_runtime.server.errors import ApiError
from dca_runtime.server.schema import ErrorBody
from dca_runtime.server.service import Service

_REASONS = {
    400: "The request is wrong, or too long for the context (code context_length_exceeded).",
    401: "A key is needed, or it is the wrong one.",
    404: "There is no such model.",
    408: "The request took too long.",
    413: "The body is too large.",
    429: "Too much is waiting already; Retry-After says when to try again.",
    500: "The server failed.",
    503: "The model is loading, the server is stopping or out of memory.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody, "description": text} for status, text in _REASONS.items()},
    "default": {"model": ErrorBody, "description": "Any other error."},
}
_OBJECT = {"schema": {"type": "object"}}
JSON: dict[str, Any] = {
    "response_model": None,
    "responses": ERRORS | {200: {"description": "The answer.", "content": {"application/json": _OBJECT}}},
}
STREAM_OR_JSON: dict[str, Any] = {
    "response_model": None,
    "responses": ERRORS
    | {
        200: {
            "description": "The answer; with stream: true as server-sent events.",
            "content": {"application/json": _OBJECT, "text/event-stream": {"schema": {"type": "string"}}},
        }
    },
}


def service_of(request: Request) -> Service:
    """The service. Raises ApiError (503) while the model loads."""
    service = request.app.state.service
    if service is None:
        raise ApiError(503, "the model is still loading", code="loading", retry_after=5)
    return service
