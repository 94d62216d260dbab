"""What tells about the server: /health, /version, /metrics and /v1/models."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.streaming import JsonAnswer
from dca_runtime.server.metrics import CONTENT_TYPE
from dca_runtime.server.protocols.documented import ERRORS, JSON, service_of
from dca_runtime.server.service import Service
from dca_runtime.version import __version__

router = APIRouter()
_TEXT: dict[str, Any] = {
    "response_model": None,
    "responses": ERRORS
    | {200: {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
}


@router.get("/health", **JSON)
async def health(request: Request) -> Response:
    """Whether requests are answered: 503 while the model loads."""
    memory = service_of(request).host_memory
    if memory is None:
        return JsonAnswer({"status": "ok"})
    used, limit = (slots * memory.page_bytes for slots in (memory.used, memory.limit))
    return JsonAnswer({"status": "ok", "host_cache": {"bytes": used, "limit": limit}})


@router.get("/version", **JSON)
async def version() -> Response:
    """The version of this software."""
    return JsonAnswer({"version": __version__})


@router.get("/metrics", **_TEXT)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/v1/models", **JSON)
async def models(request: Request) -> Response:
    """The model that is served."""
    return JsonAnswer({"object": "list", "data": [_model(service_of(request))]})


@router.get("/v1/models/{name:path}", **JSON)
async def model(request: Request, name: str) -> Response:
    """One model."""
    service = service_of(request)
    service.check_model(name)
    return JsonAnswer(_model(service))


def _model(service: Service) -> dict[str, Any]:
    info, engine = service.model.info, service.engine_info
    scheme = engine.scheme
    return {
        "id": service.settings.name,
        "object": "model",
        "created": 0,
        "owned_by": "dca-serve",
        "max_model_len": service.context,
        "meta": {
            "architecture": info.architecture,
            "n_params": info.n_params,
            "n_vocab": info.n_vocab,
            "trained_context": info.context_length,
            "scheme": None
            if scheme is None
            else {
                "chunk_size": scheme.chunk_size,
                "local_window": scheme.local_window,
                "pretraining_length": scheme.pretraining_length,
            },
            "border": engine.border,
        },
    }
