"""One tensor of a GGUF file against the checkpoint's values that it should hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dca_export.export.convert import float32, read_chunks
from dca_export.export.verify.block_bounds import FORMATS, allowed_error
from dca_export.model.layout import PlannedTensor
from dca_runtime import blocks

T = GGMLQuantizationType

ROUNDED = (T.F32, T.F16, T.BF16)  # these hold the source rounded once, bit for bit
TYPES = (*ROUNDED, *FORMATS)

# The largest error a tensor may have: root mean square, relative to that of the source's values. Normally
# distributed values come out at a half to a third of it; a tensor that was permuted, swapped or scaled by
# mistake has about 1.
MOST_ERROR = {
    T.Q8_0: 0.02,
    T.Q6_K: 0.06,
    T.Q5_K: 0.12,
    T.Q5_0: 0.15,
    T.Q5_1: 0.15,
    T.Q4_K: 0.25,
    T.IQ4_NL: 0.25,
    T.IQ4_XS: 0.25,
    T.MXFP4: 0.4,
    T.Q4_0: 0.3,
    T.Q4_1: 0.3,
    T.Q3_K: 0.5,
    T.Q2_K: 0.7,
}

# Where errors count by an imatrix, columns that hardly count have larger ones, and so have all together.
_WEIGHTED_MORE = 1.5

Read = Callable[[int, int], np.ndarray]
"""(first byte, bytes) of the tensor's data → uint8"""


def compare_values(
    planned: PlannedTensor, kind: GGMLQuantizationType, read: Read, weighted: bool = False
) -> tuple[float, str | None]:
    """The relative error of a tensor stored as `kind` (one of TYPES), and what is wrong with it, if anything.

    The error is a root mean square relative to that of the source's values. `weighted`: errors counted by an
    imatrix when it was made.
    """
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    at, row, error, power, wrong, first = 0, 0, 0.0, 0.0, 0, ""
    for tensor, rows in read_chunks(planned):
        wanted = float32(rows, tensor.dtype)
        nbytes = wanted.size // block_values * block_bytes
        data = read(at, nbytes).reshape(wanted.shape[0], -1)
        found = blocks.decode(kind, data)
        if kind in ROUNDED:
            bad = rounded(rows, tensor.dtype, kind) != data.view(_BITS[kind])
        else:
            with np.errstate(invalid="ignore"):
                bad = ~(np.abs(found.astype(np.float64) - wanted) <= allowed_error(kind, wanted, weighted))
        if bad.any() and not wrong:
            y, x = (int(index[0]) for index in np.nonzero(bad))
            first = f"row {row + y}, column {x}: {found[y, x]:.6g} for {wanted[y, x]:.6g}"
        wrong += int(np.count_nonzero(bad))
        error += float(np.square(found - wanted, dtype=np.float64).sum())
        power += float(np.square(wanted, dtype=np.float64).sum())
        at, row = at + nbytes, row + len(rows)
    relative = math.sqrt(error / power) if power else math.sqrt(error)
    if wrong:
        cause = (
            "not the source's rounded once" if kind in ROUNDED else "further off than their block explains"
        )
        values = "1 value is" if wrong == 1 else f"{wrong:,} values are"
        return relative, f"{values} {cause} (first {first}; the tensor is off by {relative:.3g} of its size)"
    most = MOST_ERROR.get(kind, 0.0) * (_WEIGHTED_MORE if weighted else 1.0)
    if kind not in ROUNDED and not relative <= most:
        return relative, f"is off by {relative:.3g} of its size, at most {most:.3g} is due to its type"
    return relative, None


_BITS = {T.F32: np.uint32, T.F16: np.uint16, T.BF16: np.uint16}


def rounded(rows: np.ndarray, dtype: str, kind: GGMLQuantizationType) -> np.ndarray:
    """The bits of stored values (in a checkpoint's `dtype`) rounded once to `kind`, ties to even."""
    if dtype == kind.name:
        return np.ascontiguousarray(rows).view(_BITS[kind])
    exact = rows if dtype == "F64" else float32(rows, dtype)
    with np.errstate(over="ignore"):
        if kind == T.F16:
            return exact.astype(np.float16).view(np.uint16)
        if kind == T.F32:
            return exact.astype(np.float32).view(np.uint32)
    return _bf16_bits(exact)


def _bf16_bits(exact: np.ndarray) -> np.ndarray:
    """BF16 keeps the upper half of an f32; from f64, what lies below f32 decides ties."""
    single = exact.astype(np.float32)
    bits = single.view(np.uint32).astype(np.uint64)
    below = np.sign(np.abs(exact) - np.abs(single).astype(exact.dtype)).astype(np.int64)
    half = bits & 0xFFFF
    up = (half > 0x8000) | ((half == 0x8000) & ((below > 0) | ((below == 0) & ((bits >> 16) & 1 == 1))))
    result = ((bits >> 16) + up).astype(np.uint16)
    return np.where(np.isnan(single), (bits >> 16 | 0x40).astype(np.uint16), result)
