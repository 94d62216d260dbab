"""What a client is told when a request cannot be answered."""

import logging
from typing import Any

from dca_runtime.errors import DcaError, Status

CONTEXT_CODE = "context_length_exceeded"  # agents shorten their prompt when they read it

_log = logging.getLogger("dca_serve")
# What a client can do nothing about; every other failure of the library lies in what it was given.
_OURS = {Status.IO, Status.MEMORY, Status.DEVICE, Status.INTERNAL}


class ApiError(Exception):
    """An answer other than the wanted one: an HTTP status, and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """retry_after: seconds after which the client may try again."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: Exception, param: str | None = None) -> "ApiError":
        """What a failure of the runtime means to a client."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, MemoryError) or (isinstance(error, DcaError) and error.status == Status.MEMORY):
            return cls(503, f"not enough memory for this request: {error}", code="out_of_memory")
        if isinstance(error, DcaError):
            return cls(500 if error.status in _OURS else 400, str(error), param=param)
        _log.error("a request failed", exc_info=error)
        return cls(500, "the server failed at this request; its log says how", code="internal_error")

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {
            "error": {
                "message": self.message,
                "type": _kind(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def _kind(status: int) -> str:
    known = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    return known.get(status, "server_error" if status >= 500 else "invalid_request_error")


def refuse(condition: bool, message: str, param: str) -> None:
    """Raises ApiError (400) if ``condition`` holds."""
    if condition:
        raise ApiError(400, message, param=param, code="invalid_value")
