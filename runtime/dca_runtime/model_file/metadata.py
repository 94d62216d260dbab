"""A file's GGUF metadata as a mapping of Python values, each decoded when it is first asked for."""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dca_runtime import _ffi
from dca_runtime._ffi import ffi

# GGUF value types (the table in dca.h) as little-endian NumPy types.
_NUMBERS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9


class Metadata(Mapping[str, Any]):
    """Keys in the file's order. Numbers become int, float and bool, strings str, arrays list.

    Bytes of a string that are not UTF-8 survive as surrogate escapes.
    """

    def __init__(self, handle: Callable[[], Any]) -> None:
        """``handle`` gives the open ``dca_model *``, or raises if it has been closed."""
        self._handle = handle
        self._values: dict[str, Any] = {}
        self._entries = {
            bytes(ffi.buffer(entry.key, entry.key_bytes)).decode("utf-8", "surrogateescape"): index
            for index in range(_ffi.lib().dca_model_metadata_count(handle()))
            for entry in [self._entry(index)]
        }

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            entry = self._entry(self._entries[key])
            data = bytes(ffi.buffer(entry.data, entry.data_bytes)) if entry.data_bytes else b""
            self._values[key] = _value(entry.type, entry.element_type, entry.count, data)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, index: int) -> Any:
        entry = ffi.new("dca_metadata *")
        _ffi.check(_ffi.lib().dca_model_metadata_at(self._handle(), index, entry))
        return entry


def _value(kind: int, element: int, count: int, data: bytes) -> Any:
    if kind == _STRING:
        return data.decode("utf-8", "surrogateescape")
    if kind == _ARRAY:
        return _elements(element, count, data, 0)[0]
    return np.frombuffer(data, _NUMBERS[kind])[0].item()


def _elements(kind: int, count: int, data: bytes, start: int) -> tuple[list[Any], int]:
    """``count`` elements of type ``kind`` that lie from ``start`` on, and where they end."""
    if kind in _NUMBERS:
        values = np.frombuffer(data, _NUMBERS[kind], count, start)
        return values.tolist(), start + values.nbytes
    items: list[Any] = []
    for _ in range(count):
        if kind == _STRING:
            (length,) = struct.unpack_from("<Q", data, start)
            start += 8 + length
            items.append(data[start - length : start].decode("utf-8", "surrogateescape"))
        else:  # an array of arrays: each with its own element type and count
            inner, inner_count = struct.unpack_from("<IQ", data, start)
            nested, start = _elements(inner, inner_count, data, start + 12)
            items.append(nested)
    return items, start
