"""Whether a value can be stored as what its GGUF key is: found out before anything is written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gguf import GGUFValueType

from dca_export.errors import InputError
from dca_export.gguf.file import packed_value


def check_packable(
    where: str, key: str, kind: GGUFValueType, value: Any, element: GGUFValueType | None = None
) -> None:
    """Raises InputError, naming `where` the value is from and its key, unless GGUF can store it.

    `element` is the type of an array's elements, None: that of its first one.
    """
    try:
        if kind != GGUFValueType.ARRAY:
            _check(kind, value)
        elif not isinstance(value, Sequence) or not len(value):
            raise ValueError("an array without elements")
        else:
            for item in value:
                _check(element or GGUFValueType.get_type(value[0]), item)
    except (struct.error, OverflowError, ValueError, TypeError) as error:  # a UnicodeEncodeError among them
        shown = ascii(value)
        raise InputError(
            f"{where}: {key} cannot be {shown if len(shown) <= 60 else shown[:57] + '...'} "
            f"({kind.name} in the file: {error})"
        ) from None


def _check(kind: GGUFValueType, value: Any) -> None:
    if kind == GGUFValueType.STRING:
        if not isinstance(value, bytes | bytearray):
            str.encode(value, "utf-8")  # also refuses what is no string
        return
    packed = packed_value(kind, value)[4:]
    if kind == GGUFValueType.FLOAT32 and value and not struct.unpack("<f", packed)[0]:
        raise ValueError("it would become 0")
