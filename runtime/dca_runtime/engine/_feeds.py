"""What a step of many sequences takes and gives in C, filled and read a field at a time for all of them.

A server steps 64 sequences a hundred times a second; a field of a struct at a time costs it more than all
that it does for a token beside.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dca_runtime._convert import token_array
from dca_runtime._ffi import ffi
from dca_runtime.options import TokenIds


def _columns(struct: str, **formats: type) -> np.dtype:
    """The layout of these fields in an array of the struct."""
    offsets = [ffi.offsetof(struct, name) for name in formats]
    names, size = list(formats), ffi.sizeof(struct)
    return np.dtype({"names": names, "formats": list(formats.values()), "offsets": offsets, "itemsize": size})


_FEED = _columns("dca_feed", sequence=np.uintp, tokens=np.uintp, n=np.uintp)
_CHOICE = _columns("dca_choice", token=np.int32)


def address(pointer: Any) -> int:
    """Where a pointer of cffi points."""
    return int(ffi.cast("uintptr_t", pointer))


def feeds(sequences: Sequence[int], tokens: Sequence[TokenIds], n_vocab: int) -> tuple[Any, list[np.ndarray]]:
    """(dca_feed[] that ask for no logits, what they point to), for sequences at these addresses.

    Raises DcaError: tokens are no integers, or too large for C; the library looks at all else.
    """
    native = ffi.new("dca_feed[]", len(sequences))
    if not sequences:
        return native, []
    values, arrays = [], {}
    for index, ids in enumerate(tokens):
        if type(ids) is list and len(ids) == 1 and type(ids[0]) is int and 0 <= ids[0] < n_vocab:
            values.append(ids[0])
        else:
            values.append(0)
            arrays[index] = token_array(ids, n_vocab)
    singles = np.array(values, np.int32)  # most steps are of single tokens: those lie in one array
    rows = np.frombuffer(ffi.buffer(native), _FEED)
    rows["sequence"] = sequences
    rows["tokens"] = address(ffi.from_buffer(singles)) + singles.itemsize * np.arange(
        len(singles), dtype=np.uintp
    )
    rows["n"] = 1
    for index, array in arrays.items():
        rows["tokens"][index], rows["n"][index] = address(ffi.from_buffer(array)), len(array)
    return native, [singles, *arrays.values()]


def chosen(choices: Any) -> list[int]:
    """The tokens of a dca_choice[]."""
    return np.frombuffer(ffi.buffer(choices), _CHOICE)["token"].tolist() if len(choices) else []
