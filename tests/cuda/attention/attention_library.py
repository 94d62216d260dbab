"""The CUDA attention kernels called from PyTorch: builds a small shared library and wraps its calls.

``AttentionLibrary.build()`` compiles ``native/cuda/attention`` with nvcc for the given targets (or takes a
library that was built before). Tests and benchmarks share it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from attention_arguments import CACHES, _Decode, _Prefill, _Shape, _Store
from compile_library import ROOT, compile_library

NOT_SUPPORTED = 801  # cudaErrorNotSupported


class AttentionLibrary:
    """The kernels as a loaded shared library."""

    FILE = "libcuda_attention.so"

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.dca_struct_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_workspace_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_pieces_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_pieces_bytes.argtypes = [
            *(ctypes.c_void_p,) * 2,
            *(ctypes.c_uint32,) * 2,
            ctypes.c_size_t,
        ]
        self._library.dca_decode_workspace_bytes.restype = ctypes.c_size_t
        for which, declared in enumerate((_Prefill, _Decode, _Store)):
            expected = self._library.dca_struct_bytes(which)
            if ctypes.sizeof(declared) != expected:
                raise RuntimeError(
                    f"{path}: {declared.__name__} has {expected} bytes, here {ctypes.sizeof(declared)}: stale"
                )

    @classmethod
    def build(
        cls, directory: Path, targets: tuple[str, ...] = ("90a",), nvcc: str = "nvcc", jobs: int = 8
    ) -> AttentionLibrary:
        """Compiles the CUDA attention into ``directory``; raises CalledProcessError if nvcc fails."""
        cuda = ROOT / "native/cuda"
        sources = [
            *sorted((cuda / "attention").rglob("*.cu")),
            *sorted((cuda / "sparse").rglob("*.cu")),
            cuda / "device/allow_shared.cpp",
            cuda / "device/card.cu",
            cuda / "device/tensor_map.cpp",
            Path(__file__).with_name("attention_exports.cpp"),
        ]
        return cls(compile_library(directory / cls.FILE, sources, targets, nvcc, jobs))

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

    def decode_group_rows(self, shape: _Shape, cache: str) -> int:
        return self._library.dca_decode_group_rows(ctypes.byref(shape), CACHES[cache])

    def decode_workspace_bytes(self, shape: _Shape, rows: int) -> int:
        return self._library.dca_decode_workspace_bytes(ctypes.byref(shape), rows)
