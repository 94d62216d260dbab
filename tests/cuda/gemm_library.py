"""The products through cuBLASLt called from PyTorch: a small shared library around ``cuda/linear/gemm.h``.

Needs cuBLASLt's header, in a CUDA toolkit or in the package nvidia-cublas, of PyTorch's own major version:
the library itself is the one that PyTorch has loaded. Tests and benchmarks share it.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from small_batch_library import DTYPES, ROOT

COLD_BYTES = 256 << 20  # more than any L2 cache: what measuring reads in between


class _Args(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "x", "y")),
        *((name, ctypes.c_uint32) for name in ("tokens", "rows", "cols", "y_stride")),
        ("dtype", ctypes.c_int32),
        *((name, ctypes.c_bool) for name in ("in_f32", "y_f32", "add")),
        ("bias", ctypes.c_void_p),
        ("often", ctypes.c_bool),
    ]


def header_directory() -> Path | None:
    """Where cublasLt.h is; None: nowhere."""
    roots = [Path(entry) / "nvidia/cu13" for entry in sys.path if entry.endswith("-packages")]
    for root in (Path("/usr/local/cuda"), *roots):
        if (root / "include/cublasLt.h").exists():
            return root / "include"
    return None


class GemmLibrary:
    """``Gemm`` of a loaded shared library, one object."""

    FILE = "libcuda_gemm.so"

    def __init__(self, path: Path):
        ctypes.CDLL(f"libcublasLt.so.{torch.version.cuda.split('.')[0]}", mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))
        for name in ("dca_gemm_args_bytes", "dca_gemm_workspace_bytes"):
            getattr(self._library, name).restype = ctypes.c_size_t
        self._library.dca_gemm_new.restype = ctypes.c_void_p
        self._library.dca_gemm.restype = ctypes.c_bool
        expected = self._library.dca_gemm_args_bytes()
        if ctypes.sizeof(_Args) != expected:
            raise RuntimeError(f"{path}: the arguments have {expected} bytes, here {ctypes.sizeof(_Args)}")
        torch.cuda.init()
        workspace_bytes = self._library.dca_gemm_workspace_bytes()
        self._workspace = torch.empty(workspace_bytes, device="cuda", dtype=torch.uint8)
        self._scratch = torch.empty(COLD_BYTES, device="cuda", dtype=torch.uint8)
        self._gemm = ctypes.c_void_p(
            self._library.dca_gemm_new(
                ctypes.c_void_p(self._workspace.data_ptr()),
                ctypes.c_void_p(self._scratch.data_ptr()),
                ctypes.c_size_t(COLD_BYTES),
            )
        )
        if not self._gemm:
            raise RuntimeError(f"{path}: cuBLASLt did not start")

    @classmethod
    def build(cls, directory: Path, nvcc: str = "nvcc", jobs: int = 8) -> GemmLibrary:
        """Compiles into ``directory`` for the current card; raises CalledProcessError if nvcc fails."""
        directory.mkdir(parents=True, exist_ok=True)
        header = header_directory()
        if header is None:
            raise RuntimeError("cublasLt.h is not found; install the package nvidia-cublas")
        major, minor = torch.cuda.get_device_capability()
        target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
        native = ROOT / "native"
        sources = [
            native / "core/text.cpp",
            native / "cuda/device/card.cu",
            native / "cuda/linear/blas_handle.cpp",
            native / "cuda/linear/elementwise.cu",
            native / "cuda/linear/gemm.cpp",
            Path(__file__).with_name("gemm_exports.cpp"),
        ]
        flags = [nvcc, "-std=c++20", "-O3", "-Xcompiler", "-fPIC"]
        flags += [f"-I{native}", f"-I{native / 'include'}", "-isystem", str(header)]
        flags += [f"-gencode=arch=compute_{target},code=sm_{target}"]
        objects = [directory / f"{source.name}.o" for source in sources]
        commands = [[*flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
        with ThreadPoolExecutor(jobs) as pool:
            for done in pool.map(lambda command: subprocess.run(command, check=True), commands):
                done.check_returncode()
        path = directory / cls.FILE
        subprocess.run([*flags, "-shared", *map(str, objects), "-o", str(path)], check=True)
        return cls(path)

    def multiply(
        self,
        w: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        often: bool,
        add: bool = False,
        bias: torch.Tensor | None = None,
    ) -> None:
        """``y`` (n, rows) (+)= ``x`` (n, cols) times ``w`` (rows, cols) transposed; on the current stream.

        The first product of a shape with ``often`` measures, which a graph cannot hold.
        """
        args = _Args(
            w.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
            x.shape[0],
            *w.shape,
            y.stride(0),
            DTYPES["f16" if w.dtype == torch.float16 else "bf16"],
            False,
            y.dtype == torch.float32,
            add,
            None if bias is None else bias.data_ptr(),
            often,
        )
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if not self._library.dca_gemm(self._gemm, ctypes.byref(args), stream):
            raise RuntimeError("dca_gemm failed")
