"""Tensors made of others as they are read, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dca_export.checkpoint.tensors import SourceTensor


def plus_one(tensor: SourceTensor) -> SourceTensor:
    """The tensor's values plus 1, in f32: what a norm multiplies by that states its weights' distance from 1."""
    return _mapped(tensor, lambda values: values + np.float32(1))


def _mapped(tensor: SourceTensor, function: Callable[[np.ndarray], np.ndarray]) -> SourceTensor:
    def read(start: int, stop: int) -> np.ndarray:
        return function(as_float32(tensor.read(start, stop), tensor.dtype))

    return replace(tensor, dtype="F32", read=read)


def as_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values of a floating-point type as f32, in the same shape."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def transposed_half(half: int) -> Callable[[SourceTensor], SourceTensor]:
    """Of matrices stacked (n, columns, 2 · rows): every second column from `half` on, transposed to (n, rows, columns)."""

    def derive(tensor: SourceTensor) -> SourceTensor:
        if len(tensor.shape) != 3 or tensor.shape[2] % 2:
            raise tensor.error(
                f"has shape {list(tensor.shape)}, expected matrices of an even number of columns"
            )
        return _transposed(tensor, slice(half, None, 2), tensor.shape[2] // 2)

    return derive


def transposed(tensor: SourceTensor) -> SourceTensor:
    """Of matrices stacked (n, columns, rows): each transposed."""
    if len(tensor.shape) != 3:
        raise tensor.error(f"has shape {list(tensor.shape)}, expected stacked matrices")
    return _transposed(tensor, slice(None), tensor.shape[2])


def _transposed(tensor: SourceTensor, chosen: slice, rows: int) -> SourceTensor:
    count, columns, _ = tensor.shape
    last: list[tuple[int, np.ndarray]] = []  # the matrix read last: rows come in order

    def matrix(index: int) -> np.ndarray:
        if not last or last[0][0] != index:
            stored = tensor.read(index * columns, (index + 1) * columns)
            last[:] = [(index, np.ascontiguousarray(stored[:, chosen].T))]
        return last[0][1]

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        while start < stop:
            index, first = divmod(start, rows)
            count = min(stop - start, rows - first)
            parts.append(matrix(index)[first : first + count])
            start += count
        return np.concatenate(parts)

    return replace(tensor, shape=(count, rows, columns), read=read)


def every_second(half: int) -> Callable[[SourceTensor], SourceTensor]:
    """Of a matrix (rows, 2 · columns): every second column from `half` on."""

    def derive(tensor: SourceTensor) -> SourceTensor:
        if tensor.columns % 2:
            raise tensor.error(f"has shape {list(tensor.shape)}, expected an even last one")

        def read(start: int, stop: int) -> np.ndarray:
            return np.ascontiguousarray(tensor.read(start, stop)[:, half::2])

        return replace(tensor, shape=(*tensor.shape[:-1], tensor.columns // 2), read=read)

    return derive
