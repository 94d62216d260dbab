"""FP8 checkpoints: E4M3 weights with scales beside them, read as the f32 values they stand for.

The scale of `weight` is `weight_scale_inv` (one for each block of rows and columns) or `weight_scale` (one
for the tensor, or one for each row). Either way it is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dca_export.checkpoint.tensors import Checkpoint, SourceTensor
from dca_export.config import Config

DEFAULT_BLOCK = (128, 128)
SUFFIXES = ("_scale_inv", "_scale")
# Scales of activations, for engines that compute in FP8.
_UNUSED = (".input_scale", ".k_scale", ".v_scale")


def _e4m3_values() -> np.ndarray:
    """The value of each of the 256 codes of E4M3FN: bias 7, no infinities, NaN where all bits are set."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = (8 + mantissa) * 2.0 ** (exponent - 10)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)


E4M3 = _e4m3_values()


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with every FP8 tensor turned into the F32 one it stands for, and the scales gone.

    Raises InputError if it is quantised in another way, or a scale is not usable.
    """
    config = checkpoint.config
    section = config.section("quantization_config") or config.section("compression_config")
    block = DEFAULT_BLOCK
    if section is not None:
        if section.text("quant_method", "") not in ("fp8", "fbgemm_fp8"):
            raise section.error("quant_method", "only fp8 checkpoints can be read; use the unquantised model")
        if "weight_block_size" in section:
            block = _block_size(section)
    result = dict(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype == "F8_E4M3":
            scale = None
            for scale_name in (name + suffix for suffix in SUFFIXES):
                scale = result.pop(scale_name, None) or scale
            read = (
                _scaled(tensor, scale, block)
                if scale
                else _Scaled(tensor, np.ones((1, 1), np.float32), (tensor.rows, tensor.columns))
            )
            result[name] = replace(tensor, dtype="F32", read=read)
    kept = {name: tensor for name, tensor in result.items() if not name.endswith(_UNUSED)}
    return replace(checkpoint, tensors=kept)


def _block_size(section: Config) -> tuple[int, int]:
    rows_columns = [int(value) for value in section.positives("weight_block_size")]
    if len(rows_columns) != 2 or min(rows_columns) < 1:
        raise section.error("weight_block_size", "must be two positive integers")
    return rows_columns[0], rows_columns[1]


@dataclass(frozen=True)
class _Scaled:
    """Rows of an FP8 tensor as f32; each scale is for `block` = (rows, columns) of it."""

    tensor: SourceTensor
    scales: np.ndarray
    block: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        values = E4M3[self.tensor.read(start, stop)]
        scales = self.scales[np.arange(start, stop) // self.block[0]]
        return values * np.repeat(scales, self.block[1], axis=1)[:, : self.tensor.columns]


def _scaled(tensor: SourceTensor, scale: SourceTensor, block: tuple[int, int]) -> _Scaled:
    """A reader for `tensor`, whose scales `scale` holds; their shape tells what each is for."""
    rows, columns = tensor.rows, tensor.columns
    blocks = (-(-rows // block[0]), -(-columns // block[1]))
    whole = ((1, 1), (rows, columns))
    each_row = ((rows, 1), (1, columns))
    layouts = {(): whole, (1,): whole, (1, 1): whole, (rows,): each_row, (rows, 1): each_row}
    layouts |= {blocks: (blocks, block)}
    if scale.shape not in layouts or scale.dtype not in ("F32", "F16", "BF16"):
        raise scale.error(
            f"is {scale.dtype} of shape {list(scale.shape)}, expected one scale, {rows} (one a row), "
            f"or {list(blocks)} (one for each {block[0]} x {block[1]} block of {tensor.name})"
        )
    stored = scale.read(0, scale.rows)
    if scale.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    shape, per_scale = layouts[scale.shape]
    values = stored.astype(np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise scale.error("holds a scale that is not finite")
    return _Scaled(tensor, values, per_scale)
