"""Integers of a few bits, packed one after another from the lowest bit of the first byte up.

GPTQ, MLX and compressed-tensors all pack so, in words of 32 bits: seen as bytes in memory order, words of any
size are one stream, and a number of 3 or 6 bits may lie across two of them.
"""

from __future__ import annotations

import numpy as np


def unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` numbers of `bits` bits of each row of `words` (rows, n): uint8 (rows, count)."""
    stream = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    if 8 % bits == 0:
        each = 8 // bits
        shifts = (np.arange(each) * bits).astype(np.uint8)
        stream = stream[:, : -(-count // each)]
        numbers = (stream[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return numbers.reshape(len(words), -1)[:, :count]
    single = np.unpackbits(stream, axis=1, bitorder="little", count=count * bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return (single.reshape(len(words), count, bits) * weights).sum(axis=2, dtype=np.uint8)


def words_for(count: int, bits: int) -> int:
    """Words of 32 bits that hold `count` numbers of `bits` bits."""
    return -(-count * bits // 32)
