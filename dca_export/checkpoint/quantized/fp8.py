"""8-bit floats: E4M3 or E5M2 weights with scales beside them, read as the f32 values they stand for.

The scale of `weight` is `weight_scale_inv` or `weight_scale`, multiplied either way: one for the tensor, one
for each row, or one for each block of rows and columns. fp8, FBGEMM, compressed-tensors and ModelOpt all
store it so; what counts is the tensors, not what config.json calls the method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dca_export.checkpoint.quantized.parts import floats, settings
from dca_export.checkpoint.quantized.scales import layout
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor
from dca_export.config import Config

DEFAULT_BLOCK = (128, 128)
SUFFIXES = ("_scale_inv", "_scale")
# Scales and zero points of activations and of the cache, for engines that compute in few bits.
_UNUSED = (
    ".input_scale",
    ".input_scale_inv",
    ".input_scale_ub",
    ".input_global_scale",
    ".input_zero_point",
    ".output_zero_point",
    ".activation_scale",
    ".activation_scale_inv",
    ".act_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".k_zero_point",
    ".v_zero_point",
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
VALUES = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}


def dequantised(checkpoint: Checkpoint) -> tuple[Checkpoint, bool]:
    """The checkpoint with every 8-bit float tensor turned into the F32 one it stands for, scales gone; and
    whether there were any.

    Raises InputError if a scale is not usable.
    """
    block = stated_block(settings(checkpoint))
    result = dict(checkpoint.tensors)
    quantised = [name for name, tensor in checkpoint.tensors.items() if tensor.dtype in VALUES]
    for name in quantised:
        tensor = checkpoint.tensors[name]
        scales = [result.pop(name + suffix) for suffix in SUFFIXES if name + suffix in result]
        if len(scales) > 1:
            raise scales[1].error(f"and {scales[0].name} are both scales of {name}, expected one")
        scale = scales[0] if scales else None
        read = (
            _scaled(tensor, scale, block)
            if scale
            else _Scaled(tensor, np.ones((1, 1), np.float32), (tensor.rows, tensor.columns))
        )
        result[name] = replace(tensor, dtype="F32", read=read)
    kept = {name: tensor for name, tensor in result.items() if not name.endswith(_UNUSED)}
    return replace(checkpoint, tensors=kept), bool(quantised)


def stated_block(section: Config) -> tuple[int, int]:
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
        values = VALUES[self.tensor.dtype][self.tensor.read(start, stop)]
        scales = self.scales[np.arange(start, stop) // self.block[0]]
        with np.errstate(over="ignore"):  # infinity is refused where the tensor is written
            return values * np.repeat(scales, self.block[1], axis=1)[:, : self.tensor.columns]


def _scaled(tensor: SourceTensor, scale: SourceTensor, block: tuple[int, int]) -> _Scaled:
    """A reader for `tensor`, whose scales `scale` holds; their shape tells what each is for."""
    found = layout(tensor.shape, scale.shape, block)
    if found is None or scale.dtype not in ("F32", "F16", "BF16"):
        raise scale.error(
            f"is {scale.dtype} of shape {list(scale.shape)}, expected one scale, {tensor.rows} (one a row), "
            f"or {[-(-n // b) for n, b in zip(tensor.shape[-2:], block, strict=False)]} "
            f"(one for each {block[0]} x {block[1]} block of {tensor.name})"
        )
    shape, per_scale = found
    values = floats(scale).reshape(shape)
    return _Scaled(tensor, values, per_scale)
