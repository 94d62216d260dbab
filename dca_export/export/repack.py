"""4-bit matrices that were quantised elsewhere, written as Q4_0 or Q4_1 without a loss.

Both formats are blocks of 32 codes with a scale in f16: Q4_0 stands for scale × (code − 8), Q4_1 for
scale × code + minimum, the minimum in f16 too. A matrix whose groups are whole blocks, and whose scales (and
minima) are f16 numbers, is one of them already; anything else is encoded anew.
"""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType

from dca_export.checkpoint.tensors import GRID_COLUMNS, FourBits
from dca_export.model.layout import PlannedTensor

T = GGMLQuantizationType

_CHECKED_ROWS = 4096  # at a time
_ZERO_CODE = 8  # what Q4_0 subtracts


def is_lossless(planned: PlannedTensor, kind: GGMLQuantizationType) -> bool:
    """Whether every row of a tensor is blocks of `kind` as it stands. Reads all its scales."""
    if kind not in (T.Q4_0, T.Q4_1) or planned.shape[-1] % GRID_COLUMNS:
        return False
    for piece in planned.pieces:
        if piece.tensor.four_bits is None:
            return False
        for start in range(piece.start, piece.stop, _CHECKED_ROWS):
            grid = piece.tensor.four_bits.grid(start, min(start + _CHECKED_ROWS, piece.stop))
            if grid is None or not _fits(*grid, kind):
                return False
    return True


def _fits(scales: np.ndarray, minima: np.ndarray, kind: GGMLQuantizationType) -> bool:
    if not _is_f16(scales):
        return False
    return bool((minima == -_ZERO_CODE * scales).all()) if kind == T.Q4_0 else _is_f16(minima)


def _is_f16(values: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def repacked(four_bits: FourBits, start: int, stop: int, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows [start, stop) of a matrix for which `is_lossless` holds, as blocks: uint8 (rows, bytes)."""
    grid = four_bits.grid(start, stop)
    assert grid is not None
    halves = four_bits.codes(start, stop).reshape(stop - start, -1, 2, GRID_COLUMNS // 2)
    codes = halves[:, :, 0] | halves[:, :, 1] << 4  # a byte holds columns i and i + 16 of its block
    numbers = grid[:1] if kind == T.Q4_0 else grid
    heads = [each.astype("<f2")[..., None].view(np.uint8) for each in numbers]
    return np.concatenate([*heads, codes], axis=2).reshape(stop - start, -1)
