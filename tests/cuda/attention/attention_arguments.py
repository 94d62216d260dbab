"""What the CUDA attention kernels are told: shapes, and each call's C structures, as attention.h has them."""

from __future__ import annotations

import ctypes
import dataclasses

import torch

ENDLESS = 1 << 31
PAGE_TOKENS = 128  # core/engine/page_pool.h
KERNELS = {"auto": 0, "simple": 1, "sm80": 2, "sm90": 3}
DTYPES = {"f16": 0, "bf16": 1}
CACHES = {"f16": 0, "bf16": 2, "q8": 3, "q4": 4}  # as dca_cache_type; the kernels take no f32
TORCH_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
MOST_GROUP_ROWS = 16  # kMostGroupRows


@dataclasses.dataclass(frozen=True)
class PositionScheme:
    """Dual Chunk Attention's integers (s, w, c), or a border that moves with the query; the default is plain
    causal attention."""

    chunk_size: int = ENDLESS
    local_window: int = 0
    pretraining_length: int = 0
    intra_only: bool = False
    logit_scale: float = 0.0
    logit_scale_length: int = 0
    border: int = (
        0  # core/positions/scheme.h: 1 STRING, 2 StreamingLLM, 3 LM-Infinite; chunks are endless then
    )
    window: int = 0
    beyond: int = 0

    def positions(self, context: int) -> int:
        """One more than the largest position that ``context`` tokens use."""
        return max(min(self.chunk_size, context), self.pretraining_length)


@dataclasses.dataclass(frozen=True)
class Shape:
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int | None = None  # None: head_dim
    interleaved: bool = False
    theta: float = 10000.0

    @property
    def rotary(self) -> int:
        return self.head_dim if self.rotary_dim is None else self.rotary_dim


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a layer's attention has beside the plain one: a window (tokens), a cap on logits, sinks."""

    window: int = 0
    cap: float = 0.0
    sinks: bool = False

    @property
    def plain(self) -> bool:
        return self == Traits()


NO_TRAITS = Traits()


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("n_heads", "n_kv_heads", "head_dim", "rotary_dim", "rope_interleaved")
    ]
    _fields_ += [("scale", ctypes.c_float)]


class _Scheme(ctypes.Structure):
    _fields_ = [
        ("chunk_size", ctypes.c_uint32),
        ("local_window", ctypes.c_uint32),
        ("pretraining_length", ctypes.c_uint32),
        ("logit_scale", ctypes.c_float),
        ("logit_scale_length", ctypes.c_uint32),
        ("intra_only", ctypes.c_bool),
        ("border", ctypes.c_uint32),
        ("window", ctypes.c_uint32),
        ("beyond", ctypes.c_uint32),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")]
    _fields_ += [("pages", ctypes.c_uint32), ("type", ctypes.c_int32)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("fine_slots", "fine_keys", "fine_values")]
    _fields_ += [("fine_stride", ctypes.c_size_t), ("key_centres", ctypes.c_void_p)]
    _fields_ += [("centre_stride", ctypes.c_size_t)]


class _Rotary(ctypes.Structure):
    _fields_ = [("cos_sin", ctypes.c_void_p), ("n_positions", ctypes.c_uint32)]


class _Traits(ctypes.Structure):
    _fields_ = [("window", ctypes.c_uint32), ("cap", ctypes.c_float), ("sinks", ctypes.c_void_p)]


_COMMON = [("shape", _Shape), ("scheme", _Scheme), ("cache", _Cache), ("rotary", _Rotary)]


class Lists(ctypes.Structure):
    """PageLists, the last three LineBits; all zero: none."""

    _fields_ = [("blocks", ctypes.c_void_p), ("pages", ctypes.c_void_p)]
    _fields_ += [("n_blocks", ctypes.c_uint32), ("most_pages", ctypes.c_uint32)]
    _fields_ += [("columns", ctypes.c_void_p), ("diagonals", ctypes.c_void_p), ("words", ctypes.c_uint32)]


WHOLE = (0, 2**31 // PAGE_TOKENS, 0, 1)  # a KeyPiece: all pages, the only one


class _Prefill(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("page_table", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("traits", _Traits),
        ("start", ctypes.c_uint32),
        ("n_queries", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("kernel", ctypes.c_int32),
        ("lists", Lists),
        ("fresh_page", ctypes.c_uint32),
        ("n_behind", ctypes.c_uint32),
        ("piece", ctypes.c_uint32 * 4),
    ]


class _Decode(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("traits", _Traits),
        ("n_rows", ctypes.c_uint32),
        ("rows", ctypes.c_void_p),
        ("page_tables", ctypes.c_void_p),
        ("groups", ctypes.c_void_p),
        ("n_groups", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_rows", ctypes.c_uint32),
        ("after_store", ctypes.c_bool),
    ]


class _Store(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("k_stride", ctypes.c_int64),
        ("v_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("n_rows", ctypes.c_uint32),
        ("indices", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
    ]
