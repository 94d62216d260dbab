"""Which scale is for which number: the shapes of scales tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.quantized.parts import floats
from dca_export.checkpoint.tensors import SourceTensor


def layout(
    shape: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The scales as a matrix, and the rows and columns that each is for; None if the shapes do not fit.

    One for the tensor, one a row, one a group along each row, or one a `block` of (rows, columns). Stacked
    experts (experts, rows, columns) are read as one matrix, their scales likewise.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    experts = max(1, math.prod(shape[:-2]))
    each = rows // experts
    block = (min(block[0], each), min(block[1], columns))
    count, width = math.prod(scale), scale[-1] if scale else 1
    in_blocks = (-(-each // block[0]), -(-columns // block[1]))
    if count == 1:
        return (1, 1), (rows, columns)
    if scale in (shape[:-1], (*shape[:-1], 1), (rows,), (rows, 1)):
        return (rows, 1), (1, columns)
    if len(scale) >= 2 and scale == (*shape[:-2], *in_blocks) and (experts == 1 or each % block[0] == 0):
        return (experts * in_blocks[0], in_blocks[1]), block
    if experts > 1 and scale in (shape[:-2], (*shape[:-2], 1), (*shape[:-2], 1, 1)):
        return (experts, 1), (each, columns)
    if scale[:-1] == shape[:-1] and columns % width == 0:  # groups along each row
        return (rows, width), (1, columns // width)
    return None


@dataclass(frozen=True)
class Scales:
    """The scales of a matrix: `per` = (rows, columns) that each of the matrix `shape` is for."""

    tensor: SourceTensor
    shape: tuple[int, int]
    per: tuple[int, int]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Those of the matrix's rows [start, stop): f32 (rows, columns of scales)."""
        return floats(self.tensor).reshape(self.shape)[np.arange(start, stop) // self.per[0]]


def scales_for(tensor: SourceTensor, shape: tuple[int, ...], block: tuple[int, int]) -> Scales:
    """The scales of a matrix of `shape`. Raises InputError if theirs does not fit it."""
    found = layout(shape, tensor.shape, block)
    if found is None:
        raise tensor.error(
            f"has shape {list(tensor.shape)}, expected one scale, one a row, one a group of columns or one "
            f"for each {block[0]} x {block[1]} block of {list(shape)}"
        )
    return Scales(tensor, *found)
