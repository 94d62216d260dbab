"""Floats of 4 bits (E2M1), two to a byte, the first in the lower half: NVFP4 and MXFP4.

NVFP4 has a scale in E4M3 for 16 columns and one in f32 for the tensor. compressed-tensors stores the latter
inverted (`weight_packed`, `weight_scale`, `weight_global_scale`), ModelOpt as it is (`weight`,
`weight_scale`, `weight_scale_2`). MXFP4 has a power of two for 32 columns, stored as its exponent plus 127.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from dca_export.checkpoint.quantized.fp8 import E4M3
from dca_export.checkpoint.quantized.parts import Parts, floats
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate((E2M1, -E2M1))
# NaN where all bits are set, as for any E8M0.
POWERS = np.append(np.exp2(np.arange(255) - 127.0), np.nan).astype(np.float32)


def weights(checkpoint: Checkpoint) -> Iterator[SourceTensor]:
    """Every matrix of 4-bit floats. Raises InputError for one that its parts do not fit."""
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype != "U8":
            continue
        if name.endswith("_blocks") and len(tensor.shape) == 4:
            yield _experts(Parts(checkpoint.tensors, name.removesuffix("_blocks")))
        if name.endswith(".weight_packed"):
            yield _matrix(Parts(checkpoint.tensors, name.removesuffix("weight_packed")), "weight_packed")
        elif name.endswith(".weight") and f"{name}_scale_2" in checkpoint.tensors:
            yield _matrix(Parts(checkpoint.tensors, name.removesuffix("weight")), "weight")


def _matrix(parts: Parts, name: str) -> SourceTensor:
    packed = parts(name, ("U8",))
    shape = (*packed.shape[:-1], 2 * packed.columns)
    scale = parts("weight_scale", ("F8_E4M3", "U8"))
    size = 16 if scale.dtype == "F8_E4M3" else 32
    if scale.shape != (*shape[:-1], shape[-1] // size):
        raise scale.error(f"has shape {list(scale.shape)}, expected {[*shape[:-1], shape[-1] // size]}")
    outer: Callable[[np.ndarray], np.ndarray] | None = None
    if (inverted := parts.get("weight_global_scale", ("F32",), (), (1,))) is not None:
        divisor = floats(inverted).reshape(())
        if divisor == 0:
            raise inverted.error("is 0, by which the scales are divided")
        outer = _divided(divisor)
    elif (factor := parts.get("weight_scale_2", ("F32",), (), (1,))) is not None:
        outer = _multiplied(floats(factor).reshape(()))
    return parts.weight(shape, _Rows(packed, scale, size, outer))


def _experts(parts: Parts) -> SourceTensor:
    """gpt-oss's stacked experts, `…_blocks` (experts, rows, groups, 16 bytes) and `…_scales`: as `…_rows`,
    for the model's own parameter has them transposed."""
    packed = parts("_blocks")
    experts, rows, groups, width = packed.shape
    scale = parts("_scales", ("U8",), (experts, rows, groups))
    if width != 16:
        raise packed.error(f"has shape {list(packed.shape)}, expected 16 bytes a group")

    def joined(start: int, stop: int) -> np.ndarray:
        return packed.read(start * groups, stop * groups).reshape(stop - start, -1)

    read = _Rows(replace(packed, shape=(experts, rows, groups * width), read=joined), scale, 32, None)
    made = parts.weight((experts, rows, 2 * width * groups), read, name="_rows")
    return replace(made, origin="MXFP4")


def _divided(divisor: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda scales: scales / divisor


def _multiplied(factor: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda scales: scales * factor


@dataclass(frozen=True)
class _Rows:
    """Rows of a matrix of 4-bit floats as f32."""

    packed: SourceTensor
    scale: SourceTensor
    size: int
    outer: Callable[[np.ndarray], np.ndarray] | None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        stored = self.scale.read(start, stop)
        scales = (E4M3 if self.scale.dtype == "F8_E4M3" else POWERS)[stored]
        if not np.isfinite(scales).all():
            raise self.scale.error("holds a scale that is not finite")
        scales = scales if self.outer is None else self.outer(scales)
        return two_to_a_byte(self.packed.read(start, stop)) * np.repeat(scales, self.size, axis=1)


def two_to_a_byte(packed: np.ndarray) -> np.ndarray:
    """The values of bytes (rows, n): f32 (rows, 2n)."""
    return E2M1[np.stack((packed & 15, packed >> 4), axis=-1)].reshape(len(packed), -1)
