"""GPTQ: `qweight` packs 2, 3, 4 or 8 bits along the columns of each row, and is stored transposed.

value = scale of the column's group × (number − zero point). `qweight` (columns · bits / 32, rows), `qzeros`
(groups, rows · bits / 32), `scales` (groups, rows), and `g_idx`, the group of each column, which act-order
leaves in any order. Files of version 1 store zero points less one; version 2 ("gptq_v2") as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.quantized.bits import unpacked, words_for
from dca_export.checkpoint.quantized.parts import (
    FLOATS,
    Parts,
    column_groups,
    equal_groups,
    floats,
    integers,
    last,
    settings,
    whole_blocks,
)
from dca_export.checkpoint.tensors import GRID_COLUMNS, Checkpoint, FourBits, SourceTensor
from dca_export.config import Config

_ZERO_OFFSET = {"gptq": 1, "gptq_v2": 0}
_WORDS = ("I32", "U32")


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix that GPTQ quantised. Raises InputError for one that its parts do not fit."""
    stated = settings(checkpoint)
    for name, tensor in checkpoint.tensors.items():
        module = name.removesuffix("qweight")
        scales = checkpoint.tensors.get(module + "scales")
        if module != name and (scales is None or scales.columns == tensor.columns):
            yield _weight(Parts(checkpoint.tensors, module), stated)


def _weight(parts: Parts, stated: Config) -> SourceTensor:
    words = parts("qweight", _WORDS)
    rows = words.columns
    scales = parts("scales", FLOATS)
    groups = scales.rows
    order = parts.get("g_idx", ("I32", "I64"))
    zeros = parts("qzeros", _WORDS)
    bits = zeros.columns * 32 // rows if order is None else words.rows * 32 // max(1, order.columns)
    columns = words.rows * 32 // bits if bits else 0
    if bits not in (2, 3, 4, 8) or words.rows != words_for(columns, bits):
        raise words.error(f"has shape {list(words.shape)}, which is not 2, 3, 4 or 8 bits a number")
    if scales.shape != (groups, rows):
        raise scales.error(f"has shape {list(scales.shape)}, expected (groups, {rows})")
    if zeros.shape != (groups, words_for(rows, bits)):
        raise zeros.error(f"has shape {list(zeros.shape)}, expected {[groups, words_for(rows, bits)]}")
    size = _group_size(stated, columns, groups)
    if order is None and (wanted := -(-columns // size)) != groups:
        raise scales.error(f"has {groups} groups, expected {wanted} ({columns} columns in {size}s)")
    matrix = _Matrix(words, zeros, scales, order, bits, columns, size, _zero_offset(stated))
    four_bits = FourBits(matrix.codes, matrix.grid) if bits <= 4 else None
    return parts.weight((rows, columns), matrix, four_bits)


def _zero_offset(stated: Config) -> int:
    form = stated.text("checkpoint_format", stated.text("format", "gptq"))
    if form not in _ZERO_OFFSET:
        raise stated.error(
            "checkpoint_format" if "checkpoint_format" in stated else "format",
            f"must be {' or '.join(_ZERO_OFFSET)}; other layouts of GPTQ are for one engine alone",
        )
    return _ZERO_OFFSET[form]


def _group_size(stated: Config, columns: int, groups: int) -> int:
    size = stated.values.get("group_size")
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size if -(-columns // size) == groups else -(-columns // max(1, groups))
    return -(-columns // max(1, groups))


@dataclass(frozen=True)
class _Matrix:
    """Rows of a GPTQ matrix as f32."""

    words: SourceTensor
    zeros: SourceTensor
    scales: SourceTensor
    order: SourceTensor | None
    bits: int
    n_columns: int
    group_size: int
    zero_offset: int

    def codes(self, start: int, stop: int) -> np.ndarray:
        """The packed numbers, uint8 (rows, columns)."""
        return unpacked(last.integers(self.words)[:, start:stop].T, self.bits, self.n_columns)

    def grid(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and value of number 0 for every 32 columns; None if they mix groups."""
        group_of = whole_blocks(self._groups(), GRID_COLUMNS)
        if group_of is None:
            return None
        scales, zeros = self._by_group(start, stop)
        return scales[:, group_of], (-scales * zeros)[:, group_of]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        scales, zeros = self._by_group(start, stop)
        group_of = self._groups()
        # Exact in f32: 11 bits of scale and 9 of difference.
        return scales[:, group_of] * (self.codes(start, stop).astype(np.float32) - zeros[:, group_of])

    def _groups(self) -> np.ndarray:
        if self.order is None:
            return equal_groups(self.n_columns, self.group_size)
        return column_groups(self.order, self.n_columns, self.scales.rows)

    def _by_group(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points, f32 (rows, groups)."""
        zeros = unpacked(integers(self.zeros), self.bits, self.scales.columns)[:, start:stop].T
        return floats(self.scales)[:, start:stop].T, zeros.astype(np.float32) + np.float32(self.zero_offset)
