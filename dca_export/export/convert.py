"""Tensors from the type they are stored in to the type they are written in, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dca_export.checkpoint.tensors import STORAGE, SourceTensor
from dca_export.export.repack import repacked
from dca_export.importance.file import Sums
from dca_export.model.layout import PlannedTensor
from dca_runtime import DcaError, blocks
from dca_runtime.errors import Status

T = GGMLQuantizationType

# Values converted at a time: 16 MiB of f32, enough to keep every core busy and little enough that a model of
# any size converts in the same memory.
CHUNK_VALUES = 4 << 20

_SAME = {"F32": T.F32, "F16": T.F16, "BF16": T.BF16}


def tensor_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of `shape` in GGUF."""
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block_values * block_bytes


def check_readable(tensor: SourceTensor) -> None:
    """Raises InputError unless the tensor's numbers are of a type that can be converted."""
    if tensor.dtype not in STORAGE:
        raise tensor.error(f"is stored as {tensor.dtype}; supported are {', '.join(STORAGE)}")


def read_chunks(planned: PlannedTensor) -> Iterator[tuple[SourceTensor, np.ndarray]]:
    """The rows of a tensor in the order they are written, as they are stored, with where they came from.

    Each array is a matrix (rows, columns) of `STORAGE[tensor.dtype]` with at most about CHUNK_VALUES values.
    """
    for tensor, start, stop in row_ranges(planned):
        rows = tensor.read(start, stop)
        yield tensor, interleaved(rows, planned.head_dim) if planned.head_dim else rows


def row_ranges(planned: PlannedTensor) -> Iterator[tuple[SourceTensor, int, int]]:
    """Each source tensor with rows [start, stop) of it, as they are written, whole heads together."""
    for piece in planned.pieces:
        step = max(1, CHUNK_VALUES // piece.tensor.columns)
        if planned.head_dim:
            step = max(planned.head_dim, step // planned.head_dim * planned.head_dim)
        for start in range(piece.start, piece.stop, step):
            yield piece.tensor, start, min(start + step, piece.stop)


def interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Interleaves the two halves of each head's rows; a vector (one row) counts as a column."""
    column = rows.reshape(-1, 1) if rows.shape[0] == 1 else rows
    halves = column.reshape(-1, 2, head_dim // 2, column.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def float32(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as f32, (rows, columns)."""
    if dtype in ("F16", "BF16"):
        return blocks.decode(_SAME[dtype], np.ascontiguousarray(rows).view(np.uint8))
    return rows.astype(np.float32, copy=False)


def _to_round(rows: np.ndarray, dtype: str, kind: GGMLQuantizationType) -> np.ndarray:
    """Stored values as the f32 values that give those of `kind` when rounded.

    F64 values on their way to 16 bits are not rounded to nearest here as well, which could move them across
    the middle between two of `kind`: an f32 that is not exact gets an odd last bit.
    """
    values = float32(rows, dtype)
    if dtype != "F64" or kind not in (T.F16, T.BF16):
        return values
    values = np.where(np.abs(values) > np.abs(rows), np.nextafter(values, np.float32(0)), values)
    return (values.view(np.uint32) | (values != rows)).view(np.float32)


def repacked_chunks(planned: PlannedTensor, kind: GGMLQuantizationType) -> Iterator[np.ndarray]:
    """The data of a tensor that is blocks of `kind` as it stands (repack.is_lossless), in order."""
    for tensor, start, stop in row_ranges(planned):
        assert tensor.four_bits is not None
        rows = repacked(tensor.four_bits, start, stop, kind)
        yield interleaved(rows, planned.head_dim) if planned.head_dim else rows


def encoded_chunks(
    planned: PlannedTensor, kind: GGMLQuantizationType, sums: Sums | None = None
) -> Iterator[np.ndarray]:
    """The tensor's data as GGUF stores it, in order; where there are `sums`, errors count by them.

    Raises InputError for a value the type cannot hold.
    """
    first = 0  # row of the whole tensor
    for tensor, rows in read_chunks(planned):
        if _SAME.get(tensor.dtype) == kind:
            yield rows
            continue
        try:
            yield _encoded(kind, _to_round(rows, tensor.dtype, kind), planned.shape, first, sums)
            first += len(rows)
        except DcaError as error:
            if error.status != Status.ARGUMENT:
                raise
            raise tensor.error(f"{error}; --outtype bf16 or f32 can hold more") from None


def _encoded(
    kind: GGMLQuantizationType, rows: np.ndarray, shape: tuple[int, ...], first: int, sums: Sums | None
) -> np.ndarray:
    """Rows from `first` on of a tensor of `shape` as blocks, each matrix stacked in it by its own weights."""
    if sums is None:
        return blocks.encode(kind, rows)
    each = shape[-2]
    borders = range((first // each + 1) * each - first, len(rows), each)
    parts = np.split(rows, list(borders))
    number = first // each
    return np.concatenate(
        [blocks.encode(kind, part, weights=sums.weights(number + i)) for i, part in enumerate(parts)]
    )


@dataclass
class StreamedTensor:
    """What GGUFWriter.write_tensor_data takes in place of an array: converts itself while it is written."""

    planned: PlannedTensor
    kind: GGMLQuantizationType
    progress: Callable[[int], None]  # bytes just written
    repack: bool = False  # its codes are written as they stand
    sums: Sums | None = None  # by which errors count

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.planned.shape, self.kind)

    def tofile(self, file: BinaryIO) -> None:
        """Writes all of the tensor."""
        if self.repack:
            chunks = repacked_chunks(self.planned, self.kind)
        else:
            chunks = encoded_chunks(self.planned, self.kind, self.sums)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)
            self.progress(chunk.nbytes)
