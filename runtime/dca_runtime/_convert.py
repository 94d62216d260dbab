"""Python values to what C takes, and back: token ids, schemes, the options that decide what a cache holds."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dca_runtime import _ffi, attention, prefill
from dca_runtime.errors import DcaError
from dca_runtime.options import (
    BORDERS,
    CACHE_TYPES,
    ROPES,
    EngineOptions,
    Scheme,
    SessionOptions,
    TokenIds,
)

LOGITS_NONE, LOGITS_LAST, LOGITS_ALL = 0, 1, 2  # dca_logits


def token_array(ids: TokenIds, n_vocab: int) -> np.ndarray:
    """``ids`` as int32 (n,). Which of them, and how many, are good is for the library to say."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths in a list
        raise DcaError("expected token ids in one dimension, got lists in it") from None
    if array.dtype == np.int32 and array.ndim == 1 and array.flags.c_contiguous:
        return array
    if array.ndim != 1:
        raise DcaError(f"expected token ids in one dimension, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise DcaError(f"token ids must be integers, got {array.dtype}")
    tokens = np.ascontiguousarray(array, np.int32)
    if (tokens != array).any():  # C cannot be asked about these
        index = np.flatnonzero(tokens != array)[0]
        raise DcaError(
            f"token id {array[index]} at index {index} is not in the vocabulary of {n_vocab} tokens"
        )
    return tokens


def c_path(path: str | os.PathLike[str]) -> bytes:
    """``path`` as C takes it. Raises DcaError for a NUL in it."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise DcaError(f"{os.fspath(path)!r}: a path cannot contain a NUL character")
    return encoded


def scheme_of(native: Any) -> Scheme | None:
    """A ``dca_scheme`` of C; chunk_size 0 is plain attention."""
    if native.chunk_size == 0:
        return None
    return Scheme(*(getattr(native, name) for name in Scheme._fields))


def fill_cache_options(native: Any, options: SessionOptions | EngineOptions, callback: _ffi.Callback) -> None:
    """Sets what ``dca_session_options`` and ``dca_engine_options`` have in common."""
    named = attention.parse(options.attention)
    attention.fill(native, named)
    native.cache_type = _choice(options.cache_type, CACHE_TYPES, "cache_type")
    prefill.fill(native, options.prefill)
    native.progress = callback.function
    if options.scheme is not None:
        if named.kind in BORDERS:
            raise DcaError(f"attention {named.name} has no scheme: leave scheme out")
        _set_scheme(native.scheme, options.scheme)
    if options.rope is not None:
        native.rope, native.rope_factor = _rope(options.rope)


def _rope(text: str) -> tuple[int, float]:
    kind, _, factor = text.partition(":")
    try:
        return _choice(kind, ROPES, "rope"), float(factor)
    except ValueError:
        raise DcaError(f"rope must be KIND:FACTOR, as in yarn:4, got {text!r}") from None


def _set_scheme(native: Any, scheme: Sequence[float]) -> None:
    if len(scheme) not in (3, 5):
        raise DcaError(
            "scheme must be (chunk_size, local_window, pretraining_length"
            f"[, logit_scale, logit_scale_length]), got {tuple(scheme)}"
        )
    native.chunk_size = _ffi.integer(scheme[0], 1, "scheme's chunk_size")
    native.local_window = _ffi.integer(scheme[1], 0, "scheme's local_window")
    native.pretraining_length = _ffi.integer(scheme[2], 1, "scheme's pretraining_length")
    if len(scheme) == 5:
        native.logit_scale = scheme[3]
        native.logit_scale_length = _ffi.integer(scheme[4], 0, "scheme's logit_scale_length")


def _choice(name: str, choices: dict[str, int], what: str) -> int:
    if name not in choices:
        raise DcaError(f"{what} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]
