"""MLX: groups of 32, 64 or 128 columns with a scale and a bias, or MX and NV floats with a scale.

Affine: `weight` U32 (rows, columns · bits / 32) of 2, 3, 4, 5, 6 or 8 bits, `scales` and `biases` (rows,
groups); value = scale × number + bias. config.json states bits and group size ("quantization"), for some
modules their own. Modes "mxfp4", "nvfp4" and "mxfp8" have U8 scales and no biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.quantized.bits import unpacked
from dca_export.checkpoint.quantized.float4 import POWERS, two_to_a_byte
from dca_export.checkpoint.quantized.fp8 import E4M3
from dca_export.checkpoint.quantized.parts import FLOATS, Parts, floats, settings
from dca_export.checkpoint.tensors import GRID_COLUMNS, Checkpoint, FourBits, SourceTensor
from dca_export.config import Config

AFFINE = (2, 3, 4, 5, 6, 8)
# Bits, group size and values of a scale's byte, by mode.
_FLOAT_MODES = {"mxfp4": (4, 32, POWERS), "mxfp8": (8, 32, POWERS), "nvfp4": (4, 16, E4M3)}


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix that MLX quantised. Raises InputError for one that its parts do not fit."""
    stated = settings(checkpoint)
    for name, tensor in checkpoint.tensors.items():
        module = name.removesuffix("weight")
        if module != name and tensor.dtype == "U32" and module + "scales" in checkpoint.tensors:
            yield _weight(Parts(checkpoint.tensors, module), _of_module(stated, module.removesuffix(".")))


def _of_module(stated: Config, module: str) -> Config:
    """The settings of one module: its own over those of the model."""
    for key, value in stated.values.items():
        if isinstance(value, dict) and (
            key == module or key.endswith("." + module) or module.endswith("." + key)
        ):
            return Config(dict(stated.values) | value, f"{stated.where}: {key}")
    return stated


def _weight(parts: Parts, stated: Config) -> SourceTensor:
    words, mode = parts("weight", ("U32",)), stated.text("mode", "affine")
    if mode in _FLOAT_MODES:
        return _floats(parts, words, mode)
    if mode != "affine":
        raise stated.error("mode", f"must be affine or one of {', '.join(_FLOAT_MODES)}")
    bits, size = stated.integer("bits", 4), stated.integer("group_size", 64)
    columns = words.columns * 32 // bits
    if bits not in AFFINE or columns * bits != words.columns * 32 or columns % size:
        raise words.error(
            f"has {words.columns} words a row, which are no {bits} bits a number in groups of {size}, as "
            f"{stated.where} says"
        )
    shape, by_group = (*words.shape[:-1], columns), (*words.shape[:-1], columns // size)
    scales, biases = parts("scales", FLOATS, by_group), parts("biases", FLOATS, by_group)
    matrix = _Affine(words, scales, biases, bits, size)
    four_bits = FourBits(matrix.codes, matrix.grid) if bits <= 4 and size % GRID_COLUMNS == 0 else None
    return parts.weight(shape, matrix, four_bits)


def _floats(parts: Parts, words: SourceTensor, mode: str) -> SourceTensor:
    bits, size, values = _FLOAT_MODES[mode]
    shape = (*words.shape[:-1], words.columns * 32 // bits)
    scales = parts("scales", ("U8",), (*words.shape[:-1], shape[-1] // size))

    def read(start: int, stop: int) -> np.ndarray:
        stored = np.ascontiguousarray(words.read(start, stop)).view(np.uint8)
        numbers = E4M3[stored] if bits == 8 else two_to_a_byte(stored)
        factors = values[scales.read(start, stop)]
        if not np.isfinite(factors).all():
            raise scales.error("holds a scale that is not finite")
        return numbers * np.repeat(factors, size, axis=1)

    return parts.weight(shape, read)


@dataclass(frozen=True)
class _Affine:
    """Rows of an affine matrix as f32."""

    words: SourceTensor
    scales: SourceTensor
    biases: SourceTensor
    bits: int
    size: int

    def codes(self, start: int, stop: int) -> np.ndarray:
        """The packed numbers, uint8 (rows, columns)."""
        return unpacked(self.words.read(start, stop), self.bits, self.words.columns * 32 // self.bits)

    def grid(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and value of number 0 for every 32 columns."""
        repeats = self.size // GRID_COLUMNS
        scales, biases = (np.repeat(each, repeats, axis=1) for each in self._by_group(start, stop))
        return scales, biases

    def __call__(self, start: int, stop: int) -> np.ndarray:
        scales, biases = (np.repeat(each, self.size, axis=1) for each in self._by_group(start, stop))
        return scales * self.codes(start, stop).astype(np.float32) + biases

    def _by_group(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        groups = self.scales.columns
        scales, biases = (floats(each).reshape(-1, groups)[start:stop] for each in (self.scales, self.biases))
        return scales, biases


def experts_apart(tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors with MLX's stacked experts (`switch_mlp`) under the names that transformers gives each."""
    result: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        block, found, projection = name.partition(".switch_mlp.")
        if not found or len(tensor.shape) != 3:
            result[name] = tensor
            continue
        if block.endswith("block_sparse_moe"):
            projection = _MIXTRAL.get(projection, projection)
        for expert in range(tensor.shape[0]):
            each = _expert(tensor, expert, f"{block}.experts.{expert}.{projection}")
            result[each.name] = each
    return result


_MIXTRAL = {"gate_proj.weight": "w1.weight", "down_proj.weight": "w2.weight", "up_proj.weight": "w3.weight"}


def _expert(stacked: SourceTensor, expert: int, name: str) -> SourceTensor:
    rows = stacked.shape[1]
    first, whole = expert * rows, stacked.four_bits

    def read(start: int, stop: int) -> np.ndarray:
        return stacked.read(first + start, first + stop)

    def codes(start: int, stop: int) -> np.ndarray:
        assert whole is not None
        return whole.codes(first + start, first + stop)

    def grid(start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        assert whole is not None
        return whole.grid(first + start, first + stop)

    parts = stacked.parts or (stacked.name,)
    four_bits = None if whole is None else FourBits(codes, grid)
    return SourceTensor(name, stacked.dtype, stacked.shape[1:], stacked.file, read, parts, four_bits)
