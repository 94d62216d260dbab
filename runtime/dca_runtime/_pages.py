"""Whole pages of a sequence or session, to and from memory: what a store of prefixes needs of the library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dca_runtime import _ffi
from dca_runtime._ffi import ffi

_SETUP_BYTES = 4096  # DCA_SETUP_BYTES


@dataclass(frozen=True)
class Setup:
    """What keys and values depend on beside the tokens; pages are of use under an equal one only."""

    text: str  # lines: model, attention, rope, prefill, layout, page
    page_bytes: int  # of one page of options.PAGE_TOKENS tokens


def setup(call: Callable[..., int], handle: Any) -> Setup:
    """``call`` is dca_engine_setup or dca_session_setup."""
    text, page_bytes = ffi.new("char[]", _SETUP_BYTES), ffi.new("uint64_t *")
    _ffi.check(call(handle, text, _SETUP_BYTES, page_bytes))
    return Setup(_ffi.text(text), page_bytes[0])


def read(call: Callable[..., int], handle: Any, first: int, count: int, out: Any) -> None:
    """``call`` is dca_sequence_read_pages or a session's; ``out`` a buffer of just ``count`` pages."""
    buffer = ffi.from_buffer("char[]", out, require_writable=True)
    first = _ffi.integer(first, 0, "first")
    count = _ffi.integer(count, 0, "count")
    _ffi.check(call(handle, first, count, buffer, len(buffer)))


def append(call: Callable[..., int], handle: Any, tokens: np.ndarray, pages: Any) -> None:
    """``call`` is dca_sequence_append_pages or a session's; ``tokens`` int32, whole pages."""
    buffer = ffi.from_buffer("char[]", pages)
    _ffi.check(call(handle, ffi.from_buffer("int32_t[]", tokens), len(tokens), buffer, len(buffer)))


def park(sequence: Any, first: int, slots: Sequence[int]) -> None:
    """Copies whole pages of a ``dca_sequence *`` to slots."""
    _ffi.check(_ffi.lib().dca_sequence_park_pages(sequence, first, _slots(slots), len(slots)))


def unpark(sequence: Any, tokens: np.ndarray, slots: Sequence[int]) -> None:
    """Appends whole pages, of ``tokens`` (int32), from slots."""
    ids = ffi.from_buffer("int32_t[]", tokens)
    call = _ffi.lib().dca_sequence_unpark_pages
    _ffi.check(call(sequence, ids, len(tokens), _slots(slots), len(slots)))


def _slots(slots: Sequence[int]) -> list[int]:
    return [_ffi.integer(slot, 0, "a slot") for slot in slots]


def checksum(data: Any, seed: int = 0) -> int:
    """The library's 64-bit checksum of a buffer, at the speed of memory: for damage, not against forgers."""
    buffer = ffi.from_buffer("char[]", data)
    return _ffi.lib().dca_checksum(buffer, len(buffer), seed)
