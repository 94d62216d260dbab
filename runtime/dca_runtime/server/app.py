"""The application: its routes, and errors in one form wherever they come from."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dca_runtime.server.answering.streaming import JsonAnswer
from dca_runtime.server.errors import ApiError
from dca_runtime.server.gate import Gate
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.page_routes import add_page
from dca_runtime.server.protocols import chat, completions, messages, responses, status, tokens
from dca_runtime.server.reference_page import add_reference
from dca_runtime.server.settings import Settings
from dca_runtime.version import __version__


def make_app(settings: Settings) -> FastAPI:
    """The application. ``app.state.service`` is None until the model is there; then it is a Service."""
    app = FastAPI(title="dca-serve", version=__version__, docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.service = None
    app.state.metrics = Metrics(settings.name)
    for protocol in (chat, completions, responses, messages, tokens, status):
        app.include_router(protocol.router)
    add_page(app)
    add_reference(app)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _mistake)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_middleware(Gate, settings=settings)
    return app


def _reply(error: ApiError) -> Response:
    return JsonAnswer(error.body(), error.status, error.headers())


def _without_frames(error: Exception) -> None:
    """Frees a request with its answer: a frame of the framework's holds its errors, which hold the frame, and
    both the body, until Python looks for such circles, which is seldom."""
    error.__traceback__ = error.__cause__ = error.__context__ = None


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _reply(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """The first thing wrong with a request; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    _without_frames(error)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _reply(_no_json())
    if isinstance(error.body, bytes):  # of another content type: it was not even looked at
        return _reply(
            ApiError(400, "the body must be JSON, with Content-Type: application/json", code="invalid_json")
        )
    path = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    message = f"{path}: {first['msg']}" if path else f"the body: {first['msg']}"
    return _reply(ApiError(400, message, param=path or None, code="invalid_value"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    _without_frames(error)
    if error.status_code == 400:  # the framework's, for JSON that is no text or is nested too deep
        return _reply(_no_json())
    if error.status_code == 404:
        return _reply(ApiError(404, f"there is nothing at {request.url.path[:200]}", code="not_found"))
    answer = _reply(ApiError(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _no_json() -> ApiError:
    return ApiError(400, "the body is not valid JSON", code="invalid_json")


async def _mistake(request: Request, error: Exception) -> Response:
    return _reply(ApiError(500, "the server failed at this request; its log says how", code="internal_error"))
