"""bitsandbytes: 8-bit integers with a scale a row (LLM.int8), and 4-bit codes with a scale a block.

8 bits: `weight` I8 with `SCB`, the largest magnitude of each row; value = code × SCB / 127, computed as the
library does it, a product with SCB and one with f32(1 / 127).

4 bits: `weight` holds the matrix flattened, two codes a byte, the first in the upper half; beside it, under
its own name and a dot, `absmax` (one for each block of 64 or so), `quant_map` (the 16 values of nf4 or fp4)
and `quant_state.bitsandbytes__nf4`, JSON with shape and block size. Double quantisation stores `absmax` as
codes of `nested_quant_map` with `nested_absmax` for blocks of 256, less their mean `nested_offset`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dca_export.checkpoint.quantized.parts import Parts, floats, integers
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor
from dca_export.config import Config

_STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
_RECIPROCAL = np.float32(1 / 127)
_ROW_MAJOR = 0  # of weight_format, which names layouts for some GPUs too


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix that bitsandbytes quantised. Raises InputError for one that its parts do not fit."""
    for name in checkpoint.tensors:
        if name.endswith(".SCB"):
            yield _eight_bits(Parts(checkpoint.tensors, name.removesuffix("SCB")))
        elif state := next((state for state in _STATES if name.endswith(state)), None):
            yield _four_bits(Parts(checkpoint.tensors, name.removesuffix(state)), state)


def _eight_bits(parts: Parts) -> SourceTensor:
    weight = parts("weight", ("I8",))
    largest = parts("SCB", ("F32",), (weight.rows,), (weight.rows, 1))
    layout = parts.get("weight_format")
    if layout is not None and (integers(layout) != _ROW_MAJOR).any():
        raise layout.error("is not 0 (rows one after another), but a layout for one kind of GPU")

    def read(start: int, stop: int) -> np.ndarray:
        scales = floats(largest).reshape(-1, 1)[start:stop]
        return weight.read(start, stop).astype(np.float32) * scales * _RECIPROCAL

    return parts.weight(weight.shape, read)


def _four_bits(parts: Parts, state: str) -> SourceTensor:
    stored, said = parts(""), parts(state, ("U8",))
    facts = _facts(said)
    shape = tuple(int(size) for size in facts.positives("shape"))
    values = math.prod(shape)
    nbytes = stored.rows * stored.columns * stored.read(0, 1).itemsize
    if nbytes != -(-values // 2):
        raise stored.error(f"has {nbytes} bytes, expected {-(-values // 2)}, 4 bits each of {list(shape)}")
    block = facts.integer("blocksize")
    blocks = -(-values // block)
    nested = parts.get(".nested_absmax", ("F32",))
    absmax = parts(".absmax", ("U8",) if nested else ("F32",))
    if (count := absmax.rows * absmax.columns) != blocks:
        raise absmax.error(f"has {count} numbers, expected {blocks}, one a block of {block}")
    codes = parts(".quant_map", ("F32",), (16,))
    scales = _Scales(absmax)
    if nested:
        size = facts.integer("nested_blocksize")
        if nested.rows * nested.columns != -(-blocks // size):
            raise nested.error(f"has {nested.columns} numbers, expected {-(-blocks // size)}")
        scales = _Scales(absmax, nested, parts(".nested_quant_map", ("F32",), (256,)), size, _offset(facts))
    matrix = _FourBitMatrix(stored, codes, scales, block, shape[-1])
    return parts.weight(shape, matrix, name="")


def _facts(said: SourceTensor) -> Config:
    where = f"{said.file}: tensor {said.name}"
    try:
        values: Any = json.loads(integers(said).tobytes())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise said.error("is not the JSON object that bitsandbytes writes")
    return Config(values, where)


def _offset(facts: Config) -> np.float32:
    value = facts.values.get("nested_offset")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise facts.error("nested_offset", "must be a finite number")
    return np.float32(value)


@dataclass(frozen=True)
class _Scales:
    """The scale of each block, stored or themselves quantised."""

    absmax: SourceTensor
    nested: SourceTensor | None = None
    codes: SourceTensor | None = None
    block: int = 1
    offset: np.float32 = np.float32(0)

    def read(self) -> np.ndarray:
        if self.nested is None or self.codes is None:
            return floats(self.absmax).reshape(-1)
        stored = integers(self.absmax).reshape(-1)
        outer = np.repeat(floats(self.nested).reshape(-1), self.block)[: stored.size]
        return floats(self.codes)[stored] * outer + self.offset


@dataclass(frozen=True)
class _FourBitMatrix:
    """Rows of a 4-bit matrix as f32."""

    stored: SourceTensor
    codes: SourceTensor
    scales: _Scales
    block: int
    columns: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        first, end = start * self.columns, stop * self.columns
        pairs = self._bytes(first // 2, -(-end // 2))
        numbers = np.stack((pairs >> 4, pairs & 15), axis=1).reshape(-1)[first % 2 :][: end - first]
        block_of = np.arange(first, end) // self.block
        return (floats(self.codes)[numbers] * self.scales.read()[block_of]).reshape(-1, self.columns)

    def _bytes(self, first: int, end: int) -> np.ndarray:
        """Bytes [first, end); the numbers they are stored as may be wider."""
        size = self.stored.read(0, 1).itemsize
        if self.stored.columns != 1:
            return integers(self.stored).reshape(-1).view(np.uint8)[first:end]
        found = (
            np.ascontiguousarray(self.stored.read(first // size, -(-end // size))).reshape(-1).view(np.uint8)
        )
        return found[first % size :][: end - first]
