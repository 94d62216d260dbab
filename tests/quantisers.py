"""Quantises matrices as other programs do, plainly: what their checkpoints hold, and for which values.

Each function returns the stored tensors of a module "m." and the f32 matrix they stand for, by the formula of
the format. Nothing here is shared with what reads them.
"""

import json
from typing import Any

import numpy as np
from tiny_hf import stored_as

Stored = dict[str, tuple[str, np.ndarray]]


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers as little-endian words of 32 bits, one bit after another: int32 (rows, words)."""
    single = (numbers[..., None] >> np.arange(bits)) & 1
    stream = single.reshape(len(numbers), -1).astype(np.uint64)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    words = (stream.reshape(len(numbers), -1, 32) << np.arange(32, dtype=np.uint64)).sum(axis=2)
    return words.astype(np.uint32).view(np.int32)


def gptq(
    rows: int,
    columns: int,
    bits: int = 4,
    group: int = 32,
    v2: bool = False,
    act_order: bool = False,
    symmetric: bool = False,
    seed: int = 0,
) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    groups = -(-columns // group)
    codes = random.integers(0, 1 << bits, (columns, rows))
    zeros = random.integers(1, (1 << bits) - 1, (groups, rows))
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = random.uniform(0.01, 0.03, (groups, rows)).astype(np.float16)
    order = np.arange(columns) // group
    if act_order:
        random.shuffle(order)
    values = scales[order].astype(np.float32) * (codes - zeros[order]).astype(np.float32)
    stored = {
        "qweight": ("I32", np.ascontiguousarray(packed(codes.T, bits).T)),
        "qzeros": ("I32", packed(zeros - (0 if v2 else 1), bits)),
        "scales": ("F16", scales),
        "g_idx": ("I32", order.astype(np.int32)),
    }
    return stored, np.ascontiguousarray(values.T)


def awq(rows: int, columns: int, group: int = 32, seed: int = 0) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (columns, rows))
    zeros = random.integers(0, 16, (columns // group, rows))
    scales = random.uniform(0.01, 0.03, (columns // group, rows)).astype(np.float16)
    stored = {
        "qweight": ("I32", _awq_packed(codes)),
        "qzeros": ("I32", _awq_packed(zeros)),
        "scales": ("F16", scales),
    }
    each = np.arange(columns) // group
    values = scales[each].astype(np.float32) * (codes - zeros[each]).astype(np.float32)
    return stored, np.ascontiguousarray(values.T)


def _awq_packed(numbers: np.ndarray) -> np.ndarray:
    words = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
    for place, row in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        words |= numbers[:, row::8].astype(np.uint32) << np.uint32(4 * place)
    return words.view(np.int32)


NF4 = np.linspace(-1, 1, 16, dtype=np.float32) ** 3  # any 16 values will do: the file states them


def bnb8(rows: int, columns: int, seed: int = 0) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(-127, 128, (rows, columns)).astype(np.int8)
    largest = random.uniform(0.1, 3, rows).astype(np.float32)
    values = codes.astype(np.float32) * largest[:, None] * np.float32(1 / 127)
    stored = {
        "weight": ("I8", codes),
        "SCB": ("F32", largest),
        "weight_format": ("U8", np.zeros((), np.uint8)),
    }
    return stored, values


def bnb4(
    rows: int, columns: int, kind: str = "nf4", nested: bool = False, block: int = 64, seed: int = 0
) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    count = rows * columns
    blocks = -(-count // block)
    codes = random.integers(0, 16, count + count % 2)
    facts: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": block,
        "dtype": "float32",
        "shape": [rows, columns],
    }
    stored: Stored = {
        "weight": ("U8", (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None]),
        "weight.quant_map": ("F32", NF4),
    }
    if nested:
        inner = random.integers(0, 256, blocks).astype(np.uint8)
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        outer = random.uniform(0.01, 0.02, -(-blocks // 256)).astype(np.float32)
        scales = table[inner] * np.repeat(outer, 256)[:blocks] + np.float32(0.05)
        facts |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05}
        stored |= {
            "weight.absmax": ("U8", inner),
            "weight.nested_absmax": ("F32", outer),
            "weight.nested_quant_map": ("F32", table),
        }
    else:
        scales = random.uniform(0.02, 0.1, blocks).astype(np.float32)
        stored["weight.absmax"] = ("F32", scales)
    state = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    stored[f"weight.quant_state.bitsandbytes__{kind}"] = ("U8", state)
    values = NF4[codes[:count]] * np.repeat(scales, block)[:count]
    return stored, values.reshape(rows, columns)


def mlx(
    rows: int, columns: int, bits: int = 4, group: int = 64, dtype: str = "F16", seed: int = 0
) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << bits, (rows, columns))
    scales, scale_values = _rounded(random.uniform(0.01, 0.03, (rows, columns // group)), dtype)
    biases, bias_values = _rounded(random.uniform(-0.3, -0.1, (rows, columns // group)), dtype)
    stored = {
        "weight": ("U32", packed(codes, bits).view(np.uint32)),
        "scales": (dtype, scales),
        "biases": (dtype, biases),
    }
    each = np.arange(columns) // group
    return stored, scale_values[:, each] * codes.astype(np.float32) + bias_values[:, each]


def _rounded(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """As stored, and the f32 values of that."""
    stored = stored_as(values.astype(np.float32), dtype)
    if dtype == "BF16":
        return stored, (stored.astype(np.uint32) << 16).view(np.float32)
    return stored, stored.astype(np.float32)


def compressed(
    rows: int,
    columns: int,
    bits: int = 4,
    group: int = 32,
    zero_points: bool = False,
    dtype: str = "BF16",
    act_order: bool = False,
    seed: int = 0,
) -> tuple[Stored, np.ndarray]:
    """Packed integers of compressed-tensors."""
    random = np.random.default_rng(seed)
    half = 1 << (bits - 1)
    groups = -(-columns // group)
    codes = random.integers(-half, half, (rows, columns))
    zeros = random.integers(-half, half, (rows, groups)) if zero_points else np.zeros((rows, groups), int)
    scales, scale_values = _rounded(random.uniform(0.01, 0.03, (rows, groups)), dtype)
    order = np.arange(columns) // group
    if act_order:
        random.shuffle(order)
    stored = {
        "weight_packed": ("I32", packed(codes + half, bits)),
        "weight_scale": (dtype, scales),
        "weight_shape": ("I64", np.array([rows, columns])),
    }
    if act_order:
        stored["weight_g_idx"] = ("I32", order.astype(np.int32))
    if zero_points:
        stored["weight_zero_point"] = ("I32", np.ascontiguousarray(packed(zeros.T + half, bits).T))
    return stored, (codes - zeros[:, order]).astype(np.float32) * scale_values[:, order]


def compressed_bytes(
    rows: int, columns: int, scale_shape: tuple[int, ...], zero_points: bool = False, seed: int = 0
) -> tuple[Stored, np.ndarray]:
    """8-bit integers of compressed-tensors, a byte each, with scales that broadcast."""
    random = np.random.default_rng(seed)
    codes = random.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales, scale_values = _rounded(random.uniform(0.01, 0.03, scale_shape), "BF16")
    stored = {"weight": ("I8", codes), "weight_scale": ("BF16", scales)}
    zeros = np.zeros(scale_shape, np.int8)
    if zero_points:
        zeros = random.integers(-9, 9, scale_shape).astype(np.int8)
        stored["weight_zero_point"] = ("I8", zeros)
    return stored, (codes.astype(np.float32) - zeros) * scale_values


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def mxfp4(rows: int, columns: int, seed: int = 0) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (rows, columns)).astype(np.uint8)
    powers = random.integers(118, 124, (rows, columns // 32)).astype(np.uint8)
    scales = np.float32(2) ** (powers.astype(np.float32) - 127)
    stored = {"weight_packed": ("U8", codes[:, 0::2] | codes[:, 1::2] << 4), "weight_scale": ("U8", powers)}
    return stored, E2M1[codes] * np.repeat(scales, 32, axis=1)
