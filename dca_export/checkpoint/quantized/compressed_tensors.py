"""compressed-tensors: integers of 1 to 8 bits, packed or a byte each. (Its floats of 8 bits are fp8.py's, of
4 bits float4.py's.)

value = scale × (number − zero point), both signed. `weight_packed` I32 (rows, words) packs numbers plus half
their range, `weight_zero_point` along its rows likewise; `weight_shape` is the matrix's. `weight` I8 holds
numbers as they are, and so does its `weight_zero_point`. `weight_scale` is for the tensor, a row, a group of
columns or a block; `weight_g_idx` gives each column's group where columns were reordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.quantized.bits import unpacked, words_for
from dca_export.checkpoint.quantized.fp8 import stated_block
from dca_export.checkpoint.quantized.parts import (
    FLOATS,
    Parts,
    column_groups,
    equal_groups,
    integers,
    settings,
    whole_blocks,
)
from dca_export.checkpoint.quantized.scales import Scales, scales_for
from dca_export.checkpoint.tensors import GRID_COLUMNS, Checkpoint, FourBits, RowReader, SourceTensor


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix of integers with `weight_scale`. Raises InputError for one that its parts do not fit."""
    block = stated_block(settings(checkpoint))
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(".weight_packed") and tensor.dtype == "I32":
            yield _packed(Parts(checkpoint.tensors, name.removesuffix("weight_packed")), block)
        elif name.endswith(".weight") and tensor.dtype == "I8" and f"{name}_scale" in checkpoint.tensors:
            yield _bytes(Parts(checkpoint.tensors, name.removesuffix("weight")), block)


def _packed(parts: Parts, block: tuple[int, int]) -> SourceTensor:
    words = parts("weight_packed", ("I32",))
    shape = tuple(int(size) for size in integers(parts("weight_shape", ("I64", "I32"))).reshape(-1))
    if len(shape) < 2 or min(shape) < 1 or shape[:-1] != words.shape[:-1]:
        raise words.error(f"has shape {list(words.shape)}, weight_shape says {list(shape)}")
    columns = shape[-1]
    fitting = [bits for bits in range(1, 9) if words_for(columns, bits) == words.columns]
    if len(fitting) != 1:
        raise words.error(f"has {words.columns} words for {columns} columns, expected 1 to 8 bits each")
    (bits,) = fitting
    half = 1 << (bits - 1)
    scales = scales_for(parts("weight_scale", FLOATS), shape, block)
    zeros = parts.get("weight_zero_point", ("I32", "I8"))

    def codes(start: int, stop: int) -> np.ndarray:
        return unpacked(words.read(start, stop), bits, columns)

    def points(start: int, stop: int) -> np.ndarray:
        """Zero points as the packed numbers count, f32 (rows, groups) or one."""
        if zeros is None:
            return np.full((1, 1), half, np.float32)
        if zeros.dtype == "I8":
            return _zero_rows(integers(zeros), scales, start, stop) + np.float32(half)
        lines = _along_rows(integers(zeros), shape[-2], bits)
        return lines.reshape(scales.shape).astype(np.float32)[np.arange(start, stop) // scales.per[0]]

    if zeros is not None and zeros.dtype == "I32":
        wanted = (*shape[:-2], words_for(shape[-2], bits), scales.shape[1])
        if zeros.shape != wanted or scales.per[0] != 1:
            raise zeros.error(f"has shape {list(zeros.shape)}, expected {list(wanted)}")
    order = parts.get("weight_g_idx", ("I32", "I64"))
    matrix = _Matrix(codes, points, scales, order, columns)
    four_bits = FourBits(codes, matrix.grid) if bits <= 4 else None
    return parts.weight(shape, matrix, four_bits)


def _bytes(parts: Parts, block: tuple[int, int]) -> SourceTensor:
    weight = parts("weight", ("I8",))
    scales = scales_for(parts("weight_scale", FLOATS), weight.shape, block)
    zeros = parts.get("weight_zero_point", ("I8",))
    if zeros is not None and zeros.rows * zeros.columns != math.prod(scales.shape):
        raise zeros.error(f"has shape {list(zeros.shape)}, its scales {list(scales.tensor.shape)}")
    order = parts.get("weight_g_idx", ("I32", "I64"))

    def points(start: int, stop: int) -> np.ndarray:
        return (
            np.zeros((1, 1), np.float32)
            if zeros is None
            else _zero_rows(integers(zeros), scales, start, stop)
        )

    return parts.weight(weight.shape, _Matrix(weight.read, points, scales, order, weight.columns))


def _zero_rows(zeros: np.ndarray, scales: Scales, start: int, stop: int) -> np.ndarray:
    return zeros.reshape(scales.shape).astype(np.float32)[np.arange(start, stop) // scales.per[0]]


def _along_rows(words: np.ndarray, rows: int, bits: int) -> np.ndarray:
    """Numbers packed down the columns: (…, words, groups) becomes (…, rows, groups)."""
    turned = np.moveaxis(words, -2, -1)
    numbers = unpacked(turned.reshape(-1, turned.shape[-1]), bits, rows)
    return np.moveaxis(numbers.reshape(*turned.shape[:-1], rows), -1, -2)


@dataclass(frozen=True)
class _Matrix:
    """Rows of a matrix of integers as f32."""

    codes: RowReader
    points: RowReader  # f32, as many columns as there are scales, or one
    scales: Scales
    order: SourceTensor | None
    columns: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        group_of = self._groups()
        scales, points = self._by_group(start, stop)
        return (self.codes(start, stop).astype(np.float32) - points[:, group_of]) * scales[:, group_of]

    def grid(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and value of number 0 for every 32 columns; None if they mix groups."""
        group_of = whole_blocks(self._groups(), GRID_COLUMNS)
        if group_of is None:
            return None
        scales, points = self._by_group(start, stop)
        return scales[:, group_of], (-scales * points)[:, group_of]

    def _by_group(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        scales = self.scales.rows(start, stop)
        return scales, np.broadcast_to(self.points(start, stop), scales.shape)

    def _groups(self) -> np.ndarray:
        if self.order is not None:
            return column_groups(self.order, self.columns, self.scales.shape[1])
        return equal_groups(self.columns, self.scales.per[1])
