"""Existing GGUF files: the header walked with every size checked.

`gguf`'s own reader trusts the file: a forged count keeps it busy for ever. And a trip through its values and
back loses what it has no value for, such as empty arrays. So entries are kept here as the bytes they are in
the file, decoded only where one is asked for. Format: GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType

from dca_export.errors import InputError

MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 65535
_PART = re.compile(r"(?P<stem>.*)-00001-of-(?P<count>\d{5})\.gguf")

_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}

# Block types that ggml has dropped, by number.
_RETIRED_TYPES = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}
_RETIRED_TYPES |= {36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a GGUF header states it."""

    name: str
    shape: tuple[int, ...]  # slowest dimension first, as in NumPy; the file has them the other way round
    type: gguf.GGMLQuantizationType
    start: int  # byte in the file
    nbytes: int

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)


class GgufFile(Mapping[str, Any]):
    """The header of a GGUF file, as a mapping from key to value (decoded when asked for).

    Raises InputError if anything in it cannot be true of a file of this size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        with open(path, "rb") as file:
            if self.size == 0:
                raise InputError(f"{path}: the file is empty, expected a GGUF file")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        self._entries: dict[str, tuple[int, int]] = {}  # key -> bytes of its value, type included
        n_tensors, n_entries = self._preamble()
        for _ in range(n_entries):
            key = self._name("key")
            start = self._at
            self._skip_value(self._value_type(key), key)
            if key in self._entries:
                raise InputError(f"{path}: key {key} occurs twice")
            self._entries[key] = start, self._at
        self.alignment = self._alignment()
        infos = [self._tensor_info() for _ in range(n_tensors)]
        data_start = padded(self._at, self.alignment)
        self.tensors = tuple(self._placed(data_start, *info) for info in infos)
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise InputError(f"{path}: tensor {tensor.name} occurs twice")
            seen.add(tensor.name)
        self._check_apart()

    def __getitem__(self, key: str) -> Any:
        self._at, _ = self._entries[key]
        return self._value(self._value_type(key), key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def value_bytes(self, key: str) -> bytes:
        """The value of `key` as it stands in the file, its type included."""
        start, end = self._entries[key]
        return self._bytes[start:end]

    @property
    def architecture(self) -> str:
        """general.architecture."""
        value = self.get("general.architecture")
        if not isinstance(value, str):
            raise InputError(f"{self.path}: general.architecture is missing, so this is not a model")
        return value

    def _preamble(self) -> tuple[int, int]:
        if self._bytes[:4] != MAGIC:
            raise InputError(f"{self.path}: not a GGUF file (it starts with {self._bytes[:4]!r})")
        self._at = 4
        version = self._number("<I", "version")
        if version & 0xFFFF == 0:
            raise InputError(f"{self.path}: a big-endian GGUF file; only little-endian ones are read")
        if version not in (2, 3):
            raise InputError(f"{self.path}: GGUF version {version}, expected 2 or 3")
        n_tensors, n_entries = self._number("<Q", "tensor count"), self._number("<Q", "key count")
        # The least a tensor and an entry take: lengths, counts and types with empty contents.
        if n_tensors * 24 + n_entries * 13 > self.size:
            raise InputError(
                f"{self.path}: states {n_tensors} tensors and {n_entries} keys, more than its "
                f"{self.size} bytes can hold; the file is truncated or damaged"
            )
        return n_tensors, n_entries

    def _take(self, n: int, what: str) -> int:
        """Moves past `n` bytes and returns where they start."""
        start = self._at
        if n > self.size - start:
            raise InputError(
                f"{self.path}: {what} at byte {start} needs {n} bytes, the file has {self.size - start} "
                "left; it is truncated or damaged"
            )
        self._at += n
        return start

    def _number(self, code: str, what: str) -> Any:
        return struct.unpack_from(code, self._bytes, self._take(struct.calcsize(code), what))[0]

    def _string(self, what: str) -> str:
        length = self._number("<Q", what)
        start = self._take(length, what)
        return self._bytes[start : start + length].decode("utf-8", "surrogateescape")

    def _name(self, what: str) -> str:
        at = self._at
        length = self._number("<Q", f"{what} length")
        if not 0 < length <= MAX_NAME_BYTES:
            raise InputError(f"{self.path}: {what} at byte {at} states {length} bytes; the file is damaged")
        self._at = at
        return self._string(what)

    def _value_type(self, key: str) -> GGUFValueType:
        number = self._number("<I", f"type of {key}")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise InputError(f"{self.path}: {key} has the unknown value type {number}") from None

    def _skip_value(self, kind: GGUFValueType, key: str) -> None:
        if kind == GGUFValueType.STRING:
            self._take(self._number("<Q", key), key)
        elif kind == GGUFValueType.ARRAY:
            element, count = self._array_header(key)
            if element in _SCALARS:
                self._take(count * struct.calcsize(_SCALARS[element]), key)
            else:
                for _ in range(count):
                    self._skip_value(element, key)
        else:
            self._take(struct.calcsize(_SCALARS[kind]), key)

    def _array_header(self, key: str) -> tuple[GGUFValueType, int]:
        element, count = self._value_type(key), self._number("<Q", key)
        if element == GGUFValueType.ARRAY:
            raise InputError(f"{self.path}: {key} is an array of arrays, which no reader supports")
        if element == GGUFValueType.STRING and count * 8 > self.size:
            raise InputError(f"{self.path}: {key} states {count} strings, more than the file can hold")
        return element, count

    def _value(self, kind: GGUFValueType, key: str) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string(key)
        if kind == GGUFValueType.ARRAY:
            element, count = self._array_header(key)
            return [self._value(element, key) for _ in range(count)]
        return self._number(_SCALARS[kind], key)

    def _check_apart(self) -> None:
        ordered = sorted(self.tensors, key=lambda tensor: tensor.start)
        for before, after in pairwise(ordered):
            if before.start + before.nbytes > after.start:
                raise InputError(
                    f"{self.path}: tensors {before.name} and {after.name} overlap at byte {after.start}; "
                    "the file is damaged"
                )

    def _alignment(self) -> int:
        if "general.alignment" not in self._entries:
            return gguf.GGUF_DEFAULT_ALIGNMENT
        after, value = self._at, self["general.alignment"]
        self._at = after
        if not isinstance(value, int) or value < 1 or value & (value - 1) or value > 1 << 20:
            raise InputError(f"{self.path}: general.alignment is {value!r}, must be a power of two")
        return value

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._name("tensor name")
        n_dimensions = self._number("<I", name)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise InputError(f"{self.path}: tensor {name} has {n_dimensions} dimensions, must be 1 to 4")
        shape = tuple(self._number("<Q", name) for _ in range(n_dimensions))[::-1]
        return name, shape, self._number("<I", name), self._number("<Q", name)

    def _placed(
        self, data_start: int, name: str, shape: tuple[int, ...], number: int, offset: int
    ) -> TensorInfo:
        if number in _RETIRED_TYPES:
            raise InputError(
                f"{self.path}: tensor {name} is of type {_RETIRED_TYPES[number]}, which no engine reads any "
                "more; use a newer file"
            )
        try:
            kind = gguf.GGMLQuantizationType(number)
            block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise InputError(f"{self.path}: tensor {name} has the unknown type {number}") from None
        if 0 in shape or shape[-1] % block_values:
            raise InputError(
                f"{self.path}: tensor {name} of type {kind.name} has shape {shape}, "
                f"its last dimension must be a positive multiple of {block_values}"
            )
        nbytes = math.prod(shape) // block_values * block_bytes
        start = data_start + offset
        if offset % self.alignment or start + nbytes > self.size:
            raise InputError(
                f"{self.path}: tensor {name} would lie at bytes {start} to {start + nbytes} of a file of "
                f"{self.size}; it is truncated or damaged"
            )
        return TensorInfo(name, shape, kind, start, nbytes)


def open_parts(path: Path) -> list[GgufFile]:
    """The file at `path`, or all files of a model in several parts of which it is the first.

    Raises InputError if a part is missing or belongs to something else.
    """
    first = GgufFile(path)
    count = first.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return [first]
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise InputError(
            f"{path}: is one of {count} parts; its name must end in -00001-of-{count:05d}.gguf, so that "
            "the others can be found"
        )
    if first.get("split.no") != 0:
        raise InputError(f"{path}: is not the first of its {count} parts; name the one with -00001-of-")
    parts = [first]
    for number in range(2, count + 1):
        other = path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf")
        if not other.is_file():
            raise InputError(f"{other}: this part of {path.name} is missing")
        parts.append(GgufFile(other))
        if parts[-1].get("split.no") != number - 1 or parts[-1].get("split.count") != count:
            raise InputError(f"{other}: is not part {number} of {count}, as its name says")
    names = [tensor.name for part in parts for tensor in part.tensors]
    if len(set(names)) != len(names):
        raise InputError(f"{path}: its parts hold a tensor twice; they do not belong together")
    if first.get("split.tensors.count", len(names)) != len(names):
        raise InputError(
            f"{path}: its parts hold {len(names)} tensors, it states {first['split.tensors.count']}; "
            "they do not belong together"
        )
    return parts


def packed_value(kind: GGUFValueType, value: int | float | str) -> bytes:
    """A scalar or string as a GGUF file states it, its type included."""
    body = packed_string(value) if isinstance(value, str) else struct.pack(_SCALARS[kind], value)
    return struct.pack("<I", kind) + body


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that starts like a GGUF file or is named like one."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return os.path.splitext(path)[1] == ".gguf" or file.read(4) == MAGIC


def packed_string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
