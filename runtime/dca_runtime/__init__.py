"""Run GGUF models with Dual Chunk Attention: the Python face of libdca.

The parts load on first use, so that importing the package costs next to nothing. What each name is,
type checkers read in __init__.pyi.
"""

import importlib
from typing import Any

_HOMES = {  # public name -> the module that defines it
    "BlockFormat": "blocks",
    "Choice": "engine",
    "Conversation": "conversation",
    "DcaError": "errors",
    "DcaWarning": "errors",
    "Document": "conversation",
    "Engine": "engine",
    "EngineInfo": "engine",
    "Generation": "generate",
    "Model": "model",
    "ModelInfo": "model",
    "PromptStore": "prompt_store",
    "Sampling": "sampling",
    "Scheme": "options",
    "Session": "session",
    "SessionInfo": "session",
    "Status": "errors",
    "TokenSequence": "engine",
    "__version__": "version",
    "block_format": "blocks",
    "decode": "blocks",
    "encode": "blocks",
    "library_version": "library",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
