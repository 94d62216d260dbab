"""The CUDA attention kernels called from PyTorch: builds a small shared library and wraps its calls.

``AttentionLibrary.build()`` compiles ``native/cuda/attention`` with nvcc for the given targets (or takes a
library that was built before); ``Problem`` holds one attention problem's tensors in the layouts of
``native/cuda/attention/attention.h``. Tests and benchmarks share it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = 1 << 31
KERNELS = {"auto": 0, "simple": 1, "sm80": 2, "sm90": 3}
DTYPES = {"f16": 0, "bf16": 1}
CACHES = {"f16": 0, "bf16": 2, "q8": 3}  # as dca_cache_type; the kernels take no f32
TORCH_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
NOT_SUPPORTED = 801  # cudaErrorNotSupported


@dataclasses.dataclass(frozen=True)
class PositionScheme:
    """Dual Chunk Attention's integers (s, w, c); the default is plain causal attention."""

    chunk_size: int = ENDLESS
    local_window: int = 0
    pretraining_length: int = 0
    intra_only: bool = False
    logit_scale: float = 0.0
    logit_scale_length: int = 0

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
    ]


class _Cache(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")]
    _fields_ += [("capacity", ctypes.c_uint32), ("type", ctypes.c_int32)]


class _Rotary(ctypes.Structure):
    _fields_ = [("cos_sin", ctypes.c_void_p), ("n_positions", ctypes.c_uint32)]


_COMMON = [("shape", _Shape), ("scheme", _Scheme), ("cache", _Cache), ("rotary", _Rotary)]


class _Prefill(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("start", ctypes.c_uint32),
        ("n_queries", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("kernel", ctypes.c_int32),
    ]


class _Decode(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("length", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    ]


class _Store(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("k_stride", ctypes.c_int64),
        ("v_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("start", ctypes.c_uint32),
        ("length", ctypes.c_void_p),
        ("n_tokens", ctypes.c_uint32),
    ]


class Problem:
    """Random queries, keys and values of one sequence on the GPU, with the cache stored by our own kernel.

    ``q`` is (n_tokens, n_heads, head_dim), ``k`` and ``v`` (n_tokens, n_kv_heads, head_dim), un-rotated;
    the cache holds all n_tokens keys and values. ``dequantized_kv_heads`` is how many key heads of a q8 cache
    prefill has room to dequantize at a time. Raises RuntimeError if a CUDA call fails.
    """

    def __init__(
        self,
        library: AttentionLibrary,
        shape: Shape,
        scheme: PositionScheme,
        n_tokens: int,
        dtype: str = "bf16",
        cache: str = "bf16",
        capacity: int | None = None,
        seed: int = 0,
        dequantized_kv_heads: int = 0,
    ):
        self.library, self.shape, self.scheme, self.n_tokens, self.dtype, self.cache_dtype = (
            library,
            shape,
            scheme,
            n_tokens,
            dtype,
            cache,
        )
        self.capacity = capacity or n_tokens
        generator = torch.Generator("cuda").manual_seed(seed)

        def random(heads: int) -> torch.Tensor:
            return torch.randn(
                n_tokens, heads, shape.head_dim, device="cuda", generator=generator, dtype=TORCH_DTYPES[dtype]
            )

        self.q, self.k, self.v = (
            random(shape.n_heads),
            random(shape.n_kv_heads),
            random(shape.n_kv_heads),
        )
        rows = (shape.n_kv_heads, self.capacity)
        self.key_scales: torch.Tensor | None = None
        self.value_scales: torch.Tensor | None = None
        if cache == "q8":
            self.keys = torch.full((*rows, shape.head_dim), 77, device="cuda", dtype=torch.uint8)
            self.values = self.keys.clone()
            self.key_scales = torch.full(rows, math.nan, device="cuda", dtype=torch.float16)
            self.value_scales = self.key_scales.clone()
        else:
            self.keys = torch.full(
                (*rows, shape.head_dim), math.nan, device="cuda", dtype=TORCH_DTYPES[cache]
            )
            self.values = self.keys.clone()
        positions = torch.arange(scheme.positions(n_tokens), device="cuda", dtype=torch.float64)
        angles = positions[:, None] * self.frequencies()
        self.cos_sin = torch.stack((angles.cos(), angles.sin()), dim=-1).float().contiguous()
        self.decode_workspace = torch.zeros(
            library.decode_workspace_bytes(self._shape()), device="cuda", dtype=torch.uint8
        )
        self.prefill_workspace = torch.zeros(
            library.prefill_workspace_bytes(self._shape(), n_tokens, dequantized_kv_heads),
            device="cuda",
            dtype=torch.uint8,
        )
        self.length = torch.tensor([n_tokens], device="cuda", dtype=torch.int32)
        self.store()

    def frequencies(self) -> torch.Tensor:
        """(rotary_dim / 2,) float64: RoPE's angle per position."""
        rotary = self.shape.rotary
        exponents = torch.arange(0, rotary, 2, device="cuda", dtype=torch.float64) / max(rotary, 1)
        return self.shape.theta**-exponents

    def store(self) -> None:
        """Writes k and v into the cache."""
        args = _Store(
            *self._common(),
            self.k.data_ptr(),
            self.v.data_ptr(),
            self.k.stride(0),
            self.v.stride(0),
            DTYPES[self.dtype],
            0,
            None,
            self.n_tokens,
        )
        self.library.call("dca_store_keys_values", args)

    def prefill(self, start: int, n_queries: int, out: torch.Tensor, kernel: str = "auto") -> bool:
        """Attention of queries from ``start`` on into ``out``; False if the kernel does not take this."""
        q = self.q[start : start + n_queries]
        args = _Prefill(
            *self._common(),
            q.data_ptr(),
            out.data_ptr(),
            q.stride(0),
            out.stride(0),
            DTYPES[self.dtype],
            start,
            n_queries,
            self.prefill_workspace.data_ptr(),
            self.prefill_workspace.numel(),
            KERNELS[kernel],
        )
        return self.library.call("dca_attention_prefill", args)

    def decode(self, index: int, out: torch.Tensor) -> None:
        """Attention of the query at ``index`` into ``out`` (n_heads, head_dim); ``length`` is index + 1."""
        args = _Decode(
            *self._common(),
            self.q[index].data_ptr(),
            out.data_ptr(),
            DTYPES[self.dtype],
            self.length.data_ptr(),
            self.decode_workspace.data_ptr(),
        )
        self.library.call("dca_attention_decode", args)

    def cache_as_float64(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as the cache holds them, (n_kv_heads, n_tokens, head_dim)."""
        keys, values = self.keys[:, : self.n_tokens].double(), self.values[:, : self.n_tokens].double()
        if self.key_scales is not None and self.value_scales is not None:
            keys = (keys - 128) * self.key_scales[:, : self.n_tokens, None].double()
            values = (values - 128) * self.value_scales[:, : self.n_tokens, None].double()
        return keys, values

    def _shape(self) -> _Shape:
        s = self.shape
        return _Shape(
            s.n_heads, s.n_kv_heads, s.head_dim, s.rotary, int(s.interleaved), 1 / math.sqrt(s.head_dim)
        )

    def _common(self) -> tuple[_Shape, _Scheme, _Cache, _Rotary]:
        s = self.scheme
        scales = [0 if t is None else t.data_ptr() for t in (self.key_scales, self.value_scales)]
        return (
            self._shape(),
            _Scheme(
                s.chunk_size,
                s.local_window,
                s.pretraining_length,
                s.logit_scale,
                s.logit_scale_length,
                s.intra_only,
            ),
            _Cache(
                self.keys.data_ptr(), self.values.data_ptr(), *scales, self.capacity, CACHES[self.cache_dtype]
            ),
            _Rotary(self.cos_sin.data_ptr(), self.cos_sin.shape[0]),
        )


class AttentionLibrary:
    """The kernels as a loaded shared library."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.dca_struct_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_workspace_bytes.restype = ctypes.c_size_t
        self._library.dca_decode_workspace_bytes.restype = ctypes.c_size_t
        for which, struct in enumerate((_Prefill, _Decode, _Store)):
            expected = self._library.dca_struct_bytes(which)
            if ctypes.sizeof(struct) != expected:
                raise RuntimeError(
                    f"{path}: {struct.__name__} has {expected} bytes, here {ctypes.sizeof(struct)}: stale"
                )

    @classmethod
    def build(
        cls, directory: Path, targets: tuple[str, ...] = ("90a",), nvcc: str = "nvcc", jobs: int = 8
    ) -> AttentionLibrary:
        """Compiles the CUDA attention into ``directory``; raises CalledProcessError if nvcc fails."""
        directory.mkdir(parents=True, exist_ok=True)
        cuda = ROOT / "native/cuda"
        sources = [
            *sorted((cuda / "attention").glob("*.cu")),
            cuda / "device/card.cu",
            cuda / "device/tensor_map.cpp",
            Path(__file__).with_name("attention_exports.cpp"),
        ]
        flags = [nvcc, "-std=c++20", "-O3", "-Xcompiler", "-fPIC"]
        flags += [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native/include'}"]
        flags += [f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets]
        flags += ["-DDCA_CUDA_SM90A"] if "90a" in targets else []
        objects = [directory / f"{source.name}.o" for source in sources]
        with ThreadPoolExecutor(jobs) as pool:
            commands = [[*flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
            for done in pool.map(lambda command: subprocess.run(command, check=True), commands):
                done.check_returncode()
        path = directory / "libcuda_attention.so"
        subprocess.run([*flags, "-shared", *map(str, objects), "-o", str(path)], check=True)
        return cls(path)

    def call(self, name: str, args: ctypes.Structure) -> bool:
        """Launches on PyTorch's current stream; False if the kernel does not take these arguments."""
        status = getattr(self._library, name)(
            ctypes.byref(args), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        )
        if status not in (0, NOT_SUPPORTED):
            raise RuntimeError(f"{name}: CUDA error {status}")
        return status == 0

    def prefill_workspace_bytes(self, shape: _Shape, context: int, kv_heads: int) -> int:
        return self._library.dca_prefill_workspace_bytes(ctypes.byref(shape), context, kv_heads)

    def decode_workspace_bytes(self, shape: _Shape) -> int:
        return self._library.dca_decode_workspace_bytes(ctypes.byref(shape))
