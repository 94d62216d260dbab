"""8-bit floats: E4M3 or E5M2 weights with scales beside them, read as the f32 values they stand for.

The scale of `weight` is `weight_scale_inv` or `weight_scale`, multiplied either way: one for the tensor, one
for each row, or one for each block of rows and columns. fp8, FBGEMM, compressed-tensors and ModelOpt all
store it so; what counts is the tensors, not what config.json calls the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dca_export.checkpoint.packed import refuse_packed
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor
from dca_export.config import Config

DEFAULT_BLOCK = (128, 128)
SUFFIXES = ("_scale_inv", "_scale")
# Scales of activations and of the cache, for engines that compute in 8 bits.
_UNUSED = (
    ".input_scale",
    ".input_scale_inv",
    ".input_scale_ub",
    ".activation_scale",
    ".activation_scale_inv",
    ".act_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
    ".prob_scale",
)


def _e4m3_values() -> np.ndarray:
    """The value of each of the 256 codes of E4M3FN: bias 7, no infinities, NaN where all bits are set."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = (8 + mantissa) * 2.0 ** (exponent - 10)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)


E4M3 = _e4m3_values()
E5M2 = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)  # f16 cut to its first byte
_VALUES = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with every 8-bit float tensor turned into the F32 one it stands for, scales gone.

    Raises InputError if tensors are quantised in another way, or a scale is not usable.
    """
    refuse_packed(checkpoint)
    config = checkpoint.config
    section = config.section("quantization_config") or config.section("compression_config")
    block = DEFAULT_BLOCK if section is None else _stated_block(section)
    result = dict(checkpoint.tensors)
    quantised = [name for name, tensor in checkpoint.tensors.items() if tensor.dtype in _VALUES]
    for name in quantised:
        tensor, scale = checkpoint.tensors[name], None
        for scale_name in (name + suffix for suffix in SUFFIXES):
            scale = result.pop(scale_name, None) or scale
        read = (
            _scaled(tensor, scale, block)
            if scale
            else _Scaled(tensor, np.ones((1, 1), np.float32), (tensor.rows, tensor.columns))
        )
        result[name] = replace(tensor, dtype="F32", read=read)
    kept = {name: tensor for name, tensor in result.items() if not name.endswith(_UNUSED)}
    notes = checkpoint.notes
    if section is not None and not quantised:
        method = section.values.get("quant_method")
        stated = f" ({method})" if isinstance(method, str) else ""
        notes += (f"config.json states a quantisation{stated}, but no tensor is quantised: not heeded",)
    return replace(checkpoint, tensors=kept, notes=notes)


def _stated_block(section: Config) -> tuple[int, int]:
    """Rows and columns of a block: `weight_block_size`, or what a group of compressed-tensors states."""
    if "weight_block_size" in section:
        return _block_size(section, "weight_block_size")
    groups = section.values.get("config_groups")
    for name, group in groups.items() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and weights.get("block_structure") is not None:
            where = f"{section.where}: config_groups: {name}: weights"
            return _block_size(Config(weights, where), "block_structure")
    return DEFAULT_BLOCK


def _block_size(section: Config, key: str) -> tuple[int, int]:
    sizes = section.positives(key)
    if len(sizes) != 2 or any(size < 1 or size != int(size) or size > 2**31 - 1 for size in sizes):
        raise section.error(key, "must be two positive integers")
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True)
class _Scaled:
    """Rows of an 8-bit tensor as f32; each scale is for `block` = (rows, columns) of it."""

    tensor: SourceTensor
    scales: np.ndarray
    block: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        values = _VALUES[self.tensor.dtype][self.tensor.read(start, stop)]
        scales = self.scales[np.arange(start, stop) // self.block[0]]
        with np.errstate(over="ignore"):  # infinity is refused where the tensor is written
            return values * np.repeat(scales, self.block[1], axis=1)[:, : self.tensor.columns]


def _scaled(tensor: SourceTensor, scale: SourceTensor, block: tuple[int, int]) -> _Scaled:
    """A reader for `tensor`, whose scales `scale` holds; their shape tells what each is for."""
    layout = _layout(tensor, scale.shape, block)
    if layout is None or scale.dtype not in ("F32", "F16", "BF16"):
        raise scale.error(
            f"is {scale.dtype} of shape {list(scale.shape)}, expected one scale, {tensor.rows} (one a row), "
            f"or {[-(-n // b) for n, b in zip(tensor.shape[-2:], block, strict=False)]} "
            f"(one for each {block[0]} x {block[1]} block of {tensor.name})"
        )
    stored = scale.read(0, scale.rows)
    if scale.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    shape, per_scale = layout
    values = stored.astype(np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise scale.error("holds a scale that is not finite")
    return _Scaled(tensor, values, per_scale)


def _layout(
    tensor: SourceTensor, scale: tuple[int, ...], block: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The scales as a matrix, and the rows and columns that each is for; None if the shapes do not fit.

    Stacked experts (experts, rows, columns) are read as one matrix, their scales likewise.
    """
    rows, columns, experts = tensor.rows, tensor.columns, max(1, math.prod(tensor.shape[:-2]))
    each = rows // experts
    block = (min(block[0], each), min(block[1], columns))
    count, width = math.prod(scale), scale[-1] if scale else 1
    in_blocks = (-(-each // block[0]), -(-columns // block[1]))
    if count == 1:
        return (1, 1), (rows, columns)
    if scale in (tensor.shape[:-1], (*tensor.shape[:-1], 1), (rows,), (rows, 1)):
        return (rows, 1), (1, columns)
    if (
        len(scale) >= 2
        and scale == (*tensor.shape[:-2], *in_blocks)
        and (experts == 1 or each % block[0] == 0)
    ):
        return (experts * in_blocks[0], in_blocks[1]), block
    if experts > 1 and scale in (tensor.shape[:-2], (*tensor.shape[:-2], 1), (*tensor.shape[:-2], 1, 1)):
        return (experts, 1), (each, columns)
    if scale[:-1] == tensor.shape[:-1] and columns % width == 0:  # groups along each row
        return (rows, width), (1, columns // width)
    return None
