"""How far a value of a quantised block may be from the one it was made of.

A block's step follows from the values it was made of and the format: the range that they span, divided by
the number of steps it is cut into. A value lies within half a step of what a level can say, or as far off
as it lies beyond the outermost level. K-quants hold the steps of their sub-blocks in a few bits, as shares
of the largest of the super-block, and their encoder looks for the step that costs least over all, which may
clip: so a whole step of the sub-block is allowed, and shares of the largest step and the largest minimum.

The shares: over weights of SmolLM2 and made-up ones (normal, heavy-tailed, uniform, sparse, of very different
sizes, far from 0), what goes beyond a whole step was at most 0.11 of the largest one; 0.25 are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType

T = GGMLQuantizationType

# The factor of a block is an f16. Relative to the value: half of 2^-10, the distance of two f16. Absolute:
# half of the smallest f16, times the largest number that it is multiplied by.
_F16_RELATIVE = 2.0**-11
_F16_LEAST = 2.0**-25
# Rounding in f32, and values that lie halfway between two levels.
_SLACK = 1.01

_OWN_STEP, _LARGEST_STEP = 1.1, 0.25  # shares of the sub-block's and of the super-block's largest step


@dataclass(frozen=True)
class _Format:
    """`block`: values that share a step; `steps`: how many the range is cut into. `lowest`: whether a block
    has a minimum of its own, otherwise the range is symmetric about 0 and the largest value, whatever its
    sign, becomes the level −steps, so that the other side has one level less (`even`: it has as many)."""

    block: int
    steps: float
    lowest: bool = False
    even: bool = False
    super_block: int = 0
    """values that share one f16 factor; 0: as `block`"""
    scale_levels: int = 1
    """the largest number that the f16 factor is multiplied by to give a step"""


FORMATS = {
    T.Q8_0: _Format(32, 127, even=True),
    T.Q4_0: _Format(32, 8),
    T.Q5_0: _Format(32, 16),
    T.Q4_1: _Format(32, 15, lowest=True),
    T.Q5_1: _Format(32, 31, lowest=True),
    T.IQ4_NL: _Format(32, 127 / 24, super_block=32, scale_levels=24),  # levels up to 24 of 127 apart
    T.IQ4_XS: _Format(32, 127 / 24, super_block=256, scale_levels=32),
    # The largest value lies between 4 and 8 units; 6 is the last level, and between 4 and 6 there is none.
    T.MXFP4: _Format(32, 2, even=True),
    T.Q2_K: _Format(16, 3, lowest=True, super_block=256, scale_levels=15),
    T.Q3_K: _Format(16, 4, super_block=256, scale_levels=32),
    T.Q4_K: _Format(32, 15, lowest=True, super_block=256, scale_levels=63),
    T.Q5_K: _Format(32, 31, lowest=True, super_block=256, scale_levels=63),
    T.Q6_K: _Format(16, 32, super_block=256, scale_levels=128),
}


def allowed_error(kind: GGMLQuantizationType, values: np.ndarray, weighted: bool = False) -> np.ndarray:
    """The largest absolute error of each of `values`, f32 (rows, columns), once written as `kind`.

    `weighted`: errors counted by an imatrix, where a value whose column hardly counts may be clipped down to
    nothing. float64, of the same shape. Raises KeyError for a type that is not in FORMATS.
    """
    form = FORMATS[kind]
    least = _F16_LEAST * (form.steps * form.scale_levels + form.lowest)
    blocks = values.astype(np.float64).reshape(-1, form.block)
    if weighted:
        largest = np.abs(values.astype(np.float64)).reshape(-1, form.super_block or form.block).max(axis=1)
        each = np.repeat(largest, form.super_block or form.block).reshape(values.shape)
        return each * (1.0 + form.lowest + 1 / form.steps) + least
    if form.super_block:
        allowed = _searched(form, blocks)
    elif form.lowest:
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        allowed = 0.5 * (high - low) / form.steps + _F16_RELATIVE * (np.abs(low) + np.abs(blocks - low))
    else:
        allowed = _symmetric(form, blocks)
    return (_SLACK * allowed + least).reshape(values.shape)


def _symmetric(form: _Format, blocks: np.ndarray) -> np.ndarray:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    step = np.abs(largest) / form.steps
    beyond = np.zeros_like(blocks)
    if not form.even:  # opposite to the largest value the last level is missing
        beyond = np.maximum(-blocks * np.sign(largest) - (form.steps - 1) * step, 0)
    return np.maximum(0.5 * step, beyond) + _F16_RELATIVE * np.abs(blocks) + _F16_RELATIVE * step


def _searched(form: _Format, blocks: np.ndarray) -> np.ndarray:
    together = form.super_block // form.block
    if form.lowest:
        least = np.minimum(blocks.min(axis=1), 0)
        step = (blocks.max(axis=1) - least) / form.steps
        minima = _largest(-least, together) / form.scale_levels
    else:
        step = np.abs(blocks).max(axis=1) / form.steps
        minima = np.zeros_like(step)
    return (_OWN_STEP * step + _LARGEST_STEP * _largest(step, together) + minima)[:, None] + np.zeros_like(
        blocks
    )


def _largest(numbers: np.ndarray, together: int) -> np.ndarray:
    """Each replaced by the largest of its group of so many neighbours."""
    return np.repeat(numbers.reshape(-1, together).max(axis=1), together)
