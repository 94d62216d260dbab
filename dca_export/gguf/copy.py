"""Writes GGUF files whose tensors come from others, byte for byte, or made anew from theirs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from gguf import GGUFValueType

from dca_export.errors import InputError
from dca_export.gguf.file import MAGIC, GgufFile, TensorInfo, packed_string, packed_value, padded

GGUF_VERSION = 3
COPY_BYTES = 16 << 20  # copied at a time: large enough for full speed, small enough to show progress


@dataclass(frozen=True)
class Copy:
    """A GGUF file made of tensors of others: `write` streams it.

    `converted`: the data of tensors that are stored otherwise than in their source, in pieces, by name; their
    TensorInfo says how they are to be.
    """

    entries: dict[str, bytes]  # key -> value as it stands in a file, its type included
    tensors: tuple[tuple[GgufFile, TensorInfo], ...]
    alignment: int
    converted: Mapping[str, Callable[[], Iterable[np.ndarray]]] = field(default_factory=dict)

    @property
    def data_bytes(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.tensors)

    def write(self, out: BinaryIO, progress: Callable[[int, int], None]) -> None:
        """Writes the file; `progress(done, total)` counts bytes of tensors."""
        out.write(self._header())
        done = 0
        for source, tensor in self.tensors:
            out.write(b"\0" * (padded(out.tell(), self.alignment) - out.tell()))
            for block in self._data(source, tensor):
                out.write(block)
                done += len(block)
                progress(done, self.data_bytes)
        out.write(b"\0" * (padded(out.tell(), self.alignment) - out.tell()))

    def _data(self, source: GgufFile, tensor: TensorInfo) -> Iterator[bytes]:
        if tensor.name in self.converted:
            for piece in self.converted[tensor.name]():
                yield piece.tobytes()
            return
        with open(source.path, "rb", buffering=0) as file:
            file.seek(tensor.start)
            left = tensor.nbytes
            while left:
                block = file.read(min(left, COPY_BYTES))
                if not block:
                    raise InputError(f"{source.path}: became shorter while it was copied")
                yield block
                left -= len(block)

    def _header(self) -> bytes:
        parts = [MAGIC, struct.pack("<IQQ", GGUF_VERSION, len(self.tensors), len(self.entries))]
        for key, value in self.entries.items():
            parts += packed_string(key), value
        offset = 0
        for _, tensor in self.tensors:
            parts += packed_string(tensor.name), struct.pack("<I", len(tensor.shape))
            parts.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1]))
            parts.append(struct.pack("<IQ", tensor.type, offset))
            offset = padded(offset + tensor.nbytes, self.alignment)
        header = b"".join(parts)
        return header + b"\0" * (padded(len(header), self.alignment) - len(header))

    def split(self, most_bytes: int) -> list[Copy]:
        """The same in parts of at most `most_bytes` of tensors (or one tensor): metadata in the first."""
        groups: list[list[tuple[GgufFile, TensorInfo]]] = [[]]
        for source, tensor in self.tensors:
            if groups[-1] and sum(t.nbytes for _, t in groups[-1]) + tensor.nbytes > most_bytes:
                groups.append([])
            groups[-1].append((source, tensor))
        if len(groups) == 1:
            return [self]
        alignment = {key: value for key, value in self.entries.items() if key == "general.alignment"}
        parts = []
        for number, group in enumerate(groups):
            entries = dict(self.entries) if number == 0 else dict(alignment)
            entries["split.no"] = packed_value(GGUFValueType.UINT16, number)
            entries["split.count"] = packed_value(GGUFValueType.UINT16, len(groups))
            entries["split.tensors.count"] = packed_value(GGUFValueType.INT32, len(self.tensors))
            parts.append(replace(self, entries=entries, tensors=tuple(group)))
        return parts
