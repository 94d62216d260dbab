"""Tensors made of others as they are read, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dca_export.checkpoint.tensors import RowReader, SourceTensor, values


def plus_one(tensor: SourceTensor) -> SourceTensor:
    """The tensor's values plus 1, in f32: the factor of a norm that states its weights' distance from 1."""
    return _mapped(tensor, lambda numbers: numbers + np.float32(1))


def _mapped(tensor: SourceTensor, function: Callable[[np.ndarray], np.ndarray]) -> SourceTensor:
    def read(start: int, stop: int) -> np.ndarray:
        return function(values(tensor, start, stop))

    return replace(tensor, dtype="F32", read=read, four_bits=None)


def transposed_half(half: int) -> Callable[[SourceTensor], SourceTensor]:
    """Of matrices stacked (n, columns, 2 · rows): every second column from `half` on, each transposed."""

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

    return _made(tensor, f"[{'' if chosen.start is None else chosen.start}]", (count, rows, columns), read)


def every_second_row(half: int) -> Callable[[SourceTensor], SourceTensor]:
    """Of matrices stacked (n, 2 · rows, columns): every second row from `half` on."""

    def derive(tensor: SourceTensor) -> SourceTensor:
        if len(tensor.shape) != 3 or tensor.shape[1] % 2:
            raise tensor.error(f"has shape {list(tensor.shape)}, expected matrices of an even number of rows")

        def read(start: int, stop: int) -> np.ndarray:
            return np.ascontiguousarray(tensor.read(2 * start, 2 * stop)[half::2])

        return _made(tensor, f"[{half}]", (tensor.shape[0], tensor.shape[1] // 2, tensor.shape[2]), read)

    return derive


def _made(tensor: SourceTensor, suffix: str, shape: tuple[int, ...], read: RowReader) -> SourceTensor:
    """A tensor of other rows than those of the one it comes from."""
    parts = (tensor.name, *tensor.parts)
    return replace(tensor, name=tensor.name + suffix, shape=shape, read=read, parts=parts, four_bits=None)


def every_second(half: int) -> Callable[[SourceTensor], SourceTensor]:
    """Of a matrix (rows, 2 · columns): every second column from `half` on."""

    def derive(tensor: SourceTensor) -> SourceTensor:
        if tensor.columns % 2:
            raise tensor.error(f"has shape {list(tensor.shape)}, expected an even last one")

        def read(start: int, stop: int) -> np.ndarray:
            return np.ascontiguousarray(tensor.read(start, stop)[:, half::2])

        return _made(tensor, f"[{half}]", (*tensor.shape[:-1], tensor.columns // 2), read)

    return derive
