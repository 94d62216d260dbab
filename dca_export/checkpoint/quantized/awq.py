"""AWQ in its GEMM packing: 4 bits, eight rows of the matrix to a word, stored transposed.

value = scale × (number − zero point). `qweight` (columns, rows / 8), `qzeros` (groups, rows / 8), `scales`
(groups, rows). The eight numbers of a word, from its lowest bits up, belong to rows 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.quantized.bits import unpacked
from dca_export.checkpoint.quantized.parts import (
    FLOATS,
    Parts,
    equal_groups,
    floats,
    integers,
    last,
    settings,
    whole_blocks,
)
from dca_export.checkpoint.tensors import GRID_COLUMNS, Checkpoint, FourBits, SourceTensor

PER_WORD = 8
_WORDS = ("I32", "U32")
# Where in its word the number of each row lies.
_PLACE = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix that AWQ quantised. Raises InputError for one that its parts do not fit."""
    for name, tensor in checkpoint.tensors.items():
        module = name.removesuffix("qweight")
        scales = checkpoint.tensors.get(module + "scales")
        if module != name and scales is not None and scales.columns == PER_WORD * tensor.columns:
            stated = settings(checkpoint)
            if stated.text("version", "gemm").lower() != "gemm":
                raise stated.error("version", 'must be "gemm"; other packings of AWQ are not read')
            yield _weight(Parts(checkpoint.tensors, module))


def _weight(parts: Parts) -> SourceTensor:
    words, scales = parts("qweight", _WORDS), parts("scales", FLOATS)
    columns, rows, groups = words.rows, scales.columns, scales.rows
    zeros = parts.get("qzeros", _WORDS, (groups, rows // PER_WORD))
    if not groups or columns % groups:
        raise scales.error(f"has {groups} groups, expected a divisor of {columns} columns")
    matrix = _Matrix(words, zeros, scales, columns // groups)
    return parts.weight((rows, columns), matrix, FourBits(matrix.codes, matrix.grid))


def _rows(words: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Numbers of the matrix's rows [start, stop): uint8 (rows, columns of the matrix or groups)."""
    first, end = start // PER_WORD, -(-stop // PER_WORD)
    numbers = unpacked(words[:, first:end], 4, (end - first) * PER_WORD)
    ordered = numbers.reshape(len(words), -1, PER_WORD)[..., _PLACE].reshape(len(words), -1)
    return ordered[:, start - first * PER_WORD : stop - first * PER_WORD].T


@dataclass(frozen=True)
class _Matrix:
    """Rows of an AWQ matrix as f32."""

    words: SourceTensor
    zeros: SourceTensor | None  # None: every zero point is 8
    scales: SourceTensor
    group_size: int

    def codes(self, start: int, stop: int) -> np.ndarray:
        """The packed numbers, uint8 (rows, columns)."""
        return _rows(last.integers(self.words), start, stop)

    def grid(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and value of number 0 for every 32 columns; None if they mix groups."""
        group_of = whole_blocks(equal_groups(self.words.rows, self.group_size), GRID_COLUMNS)
        if group_of is None:
            return None
        scales, zeros = self._by_group(start, stop)
        return scales[:, group_of], (-scales * zeros)[:, group_of]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        scales, zeros = (np.repeat(each, self.group_size, 1) for each in self._by_group(start, stop))
        return scales * (self.codes(start, stop).astype(np.float32) - zeros)  # exact in f32

    def _by_group(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        scales = floats(self.scales)[:, start:stop].T
        if self.zeros is None:
            return scales, np.full_like(scales, 8)
        return scales, _rows(integers(self.zeros), start, stop).astype(np.float32)
