"""Run GGUF models with Dual Chunk Attention: the Python face of libdca.

The parts load on first use, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dca_runtime.blocks import BlockFormat, block_format, decode, encode
    from dca_runtime.conversation import Conversation, Document
    from dca_runtime.errors import DcaError, DcaWarning, Status
    from dca_runtime.generate import Generation
    from dca_runtime.library import library_version
    from dca_runtime.model import Model, ModelInfo
    from dca_runtime.sampling import Sampling
    from dca_runtime.session import Session, SessionInfo

_HOMES = {
    "BlockFormat": "blocks",
    "Conversation": "conversation",
    "DcaError": "errors",
    "DcaWarning": "errors",
    "Document": "conversation",
    "Generation": "generate",
    "Model": "model",
    "ModelInfo": "model",
    "Sampling": "sampling",
    "Session": "session",
    "SessionInfo": "session",
    "Status": "errors",
    "block_format": "blocks",
    "decode": "blocks",
    "encode": "blocks",
    "library_version": "library",
}

__all__ = [
    "BlockFormat",
    "Conversation",
    "DcaError",
    "DcaWarning",
    "Document",
    "Generation",
    "Model",
    "ModelInfo",
    "Sampling",
    "Session",
    "SessionInfo",
    "Status",
    "block_format",
    "decode",
    "encode",
    "library_version",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
