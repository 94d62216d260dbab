"""The CUDA products of few rows called from PyTorch: builds a small shared library and wraps its call.

``SmallBatchLibrary.build()`` compiles ``native/cuda/linear/small_batch`` with nvcc; ``Weights`` holds a
random matrix in the planes of ``native/cuda/weights/planes.h`` and knows, from that file's description alone,
the values it stands for. Tests and benchmarks share it.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from compile_library import ROOT, compile_library

DTYPES = {"f16": 0, "bf16": 1}
TORCH_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
UNIT = 32


@dataclasses.dataclass(frozen=True)
class Format:
    """A WeightFormat of planes.h: its number there, and what a unit of 32 weights has in each plane."""

    number: int
    blocks: str  # the GGUF types that become it
    low_bits: int
    high_bits: int = 0
    groups: int = 1  # with a scale each
    offset: int = 0
    minimum: bool = False
    levels: tuple[int, ...] = ()  # what codes stand for, where they are no numbers
    power: bool = False  # whether the scale is a power of two in bf16
    fine_steps: int = 1  # else f16 of so many times the scale

    @property
    def scale_halves(self) -> int:
        return self.groups * (2 if self.minimum else 1)


IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


FORMATS = {
    "F16": Format(0, "F16", 16),
    "BF16": Format(1, "BF16", 16),
    "Q8": Format(2, "Q8_0", 8),
    "Q4": Format(3, "Q4_0", 4, offset=8),
    "Q4M": Format(4, "Q4_1, Q4_K", 4, minimum=True),
    "Q5": Format(5, "Q5_0", 4, 1, offset=16),
    "Q5M": Format(6, "Q5_1, Q5_K", 4, 1, minimum=True),
    "Q6": Format(7, "Q6_K", 4, 2, groups=2, offset=32),
    "Q3": Format(8, "Q3_K", 4, groups=2, offset=4),
    "Q2M": Format(9, "Q2_K", 4, groups=2, minimum=True),
    "IQ4": Format(10, "IQ4_NL, IQ4_XS", 4, levels=IQ4_LEVELS, fine_steps=128),
    "FP4": Format(11, "MXFP4", 4, levels=FP4_LEVELS, power=True),
}


ACTIVATIONS = ("silu", "gelu", "clamped swiglu")  # core/hparams.h


class _Matrix(ctypes.Structure):
    _fields_ = [("format", ctypes.c_int32), ("rows", ctypes.c_uint32), ("cols", ctypes.c_uint32)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("low", "high", "scales")]


class _Args(ctypes.Structure):
    _fields_ = [
        ("w", _Matrix),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_uint32),
        ("y_stride", ctypes.c_uint32),
        ("dtype", ctypes.c_int32),
        ("y_f32", ctypes.c_bool),
        ("add", ctypes.c_bool),
        ("bias", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("gated", ctypes.c_bool),
        ("activation", ctypes.c_int32),
    ]


class Weights:
    """A random matrix (rows, cols) of a format in device planes; values of the order of 0.03."""

    def __init__(self, name: str, rows: int, cols: int, seed: int = 0):
        self.name, self.format, self.rows, self.cols = name, FORMATS[name], rows, cols
        generator = torch.Generator("cuda").manual_seed(seed)
        self.high: torch.Tensor | None = None
        self.scales: torch.Tensor | None = None
        if self.format.low_bits == 16:
            dtype = TORCH_DTYPES[name.lower()]
            self.low = 0.03 * torch.randn(rows, cols, device="cuda", generator=generator, dtype=dtype)
            return

        def random_bytes(*shape: int) -> torch.Tensor:
            return torch.randint(0, 256, shape, device="cuda", generator=generator, dtype=torch.uint8)

        units, padded = cols // UNIT, -(-(cols // UNIT) // 4) * 4
        self.low = random_bytes(rows, units, UNIT * self.format.low_bits // 8)
        if self.format.high_bits:
            self.high = random_bytes(rows, padded, 4 * self.format.high_bits)
            self.high[:, units:] = 0
        step = 0.1 / 2 ** (self.format.low_bits + self.format.high_bits)
        shape = (rows, padded, self.format.scale_halves)
        scales = step * (0.5 + torch.rand(shape, device="cuda", generator=generator))
        if self.format.minimum:
            scales[..., 1::2] *= -7.5
        if self.format.power:
            scales = 2.0 ** torch.randint(-9, -6, shape, device="cuda", generator=generator)
        elif self.format.levels:  # of either sign
            scales *= torch.randint(-32, 32, shape, device="cuda", generator=generator)
        scales[:, units:] = 0
        self.scales = scales.to(torch.bfloat16 if self.format.power else torch.float16)

    @property
    def bytes(self) -> int:
        """Of all planes."""
        planes = (self.low, self.high, self.scales)
        return sum(plane.numel() * plane.element_size() for plane in planes if plane is not None)

    def matrix(self) -> _Matrix:
        high, scales = (None if plane is None else plane.data_ptr() for plane in (self.high, self.scales))
        return _Matrix(self.format.number, self.rows, self.cols, self.low.data_ptr(), high, scales)

    def values(self, first: int, last: int) -> torch.Tensor:
        """(last - first, cols) float64: these rows; quantised values rounded to f16, as the kernels do."""
        if self.scales is None:
            return self.low[first:last].double()
        f, units = self.format, self.cols // UNIT
        low = self.low[first:last]
        if f.low_bits == 8:
            q = low.view(torch.int8).to(torch.int32)
        elif f.levels:
            codes = torch.stack((low & 15, low >> 4), dim=-1).flatten(-2).long()
            q = torch.tensor(f.levels, device="cuda", dtype=torch.int32)[codes]
        else:
            q = torch.cat((low & 15, low >> 4), dim=-1).to(torch.int32)
        if self.high is not None:
            # Value 16 n + 4 j + k has its high bits at place 2 j + n, in steps of high_bits, of byte k, over
            # all of the unit's high words.
            words = self.high[first:last, :units].to(torch.int32).unflatten(-1, (f.high_bits, 4))
            v = torch.arange(UNIT, device="cuda")
            n, j, k = v // 16, v // 4 % 4, v % 4
            place = f.high_bits * (2 * j + n)
            bits = words[:, :, place // 8, k] >> (place % 8)
            q = q | (bits & (2**f.high_bits - 1)) << 4
        scales = self.scales[first:last, :units].double().unflatten(-1, (f.groups, -1))
        if f.fine_steps > 1:
            scales = (scales / f.fine_steps).half().double()
        values = (q - f.offset).double().unflatten(-1, (f.groups, -1)) * scales[..., :1]
        if f.minimum:
            values = values + scales[..., 1:]
        return values.flatten(1).half().double()

    def pieces(self, dtype: str) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows' values, rounded to ``dtype``, a piece at a time with the number of its first row."""
        for first in range(0, self.rows, 8192):
            values = self.values(first, min(first + 8192, self.rows))
            yield first, values.to(TORCH_DTYPES[dtype]).double()


class SmallBatchLibrary:
    """The kernels as a loaded shared library."""

    FILE = "libcuda_small_batch.so"

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.dca_small_batch_args_bytes.restype = ctypes.c_size_t
        self._library.dca_small_batch_workspace_bytes.restype = ctypes.c_size_t
        self._library.dca_small_batch_takes.restype = ctypes.c_bool
        expected = self._library.dca_small_batch_args_bytes()
        if ctypes.sizeof(_Args) != expected:
            raise RuntimeError(f"{path}: the arguments have {expected} bytes, here {ctypes.sizeof(_Args)}")

    @classmethod
    def build(
        cls, directory: Path, targets: tuple[str, ...] = ("90a",), nvcc: str = "nvcc", jobs: int = 8
    ) -> SmallBatchLibrary:
        """Compiles the kernels into ``directory``; raises CalledProcessError if nvcc fails."""
        cuda = ROOT / "native/cuda"
        sources = [
            *sorted((cuda / "linear/small_batch").glob("*.cu")),
            cuda / "device/allow_shared.cpp",
            cuda / "device/card.cu",
            cuda / "device/cluster_launch.cpp",
            cuda / "device/tensor_map.cpp",
            Path(__file__).with_name("small_batch_exports.cpp"),
        ]
        return cls(compile_library(directory / cls.FILE, sources, targets, nvcc, jobs))

    @classmethod
    def build_for_this_card(cls, directory: Path) -> SmallBatchLibrary:
        major, minor = torch.cuda.get_device_capability()
        return cls.build(directory, ("90a" if (major, minor) == (9, 0) else f"{major}{minor}",))

    def takes(self, weights: Weights, rows: int) -> bool:
        return self._library.dca_small_batch_takes(ctypes.byref(weights.matrix()), ctypes.c_uint32(rows))

    def workspace(self, rows: int) -> torch.Tensor:
        """Workspace for up to ``rows`` rows, full of NaN."""
        size = self._library.dca_small_batch_workspace_bytes(ctypes.c_uint32(rows))
        return torch.full((size // 4,), torch.nan, device="cuda")

    def multiply(
        self,
        weights: Weights,
        x: torch.Tensor,
        y: torch.Tensor,
        workspace: torch.Tensor,
        add: bool = False,
        bias: torch.Tensor | None = None,
        gated: str | None = None,
    ) -> None:
        """``y`` (n, rows) (+)= ``x`` (n, cols) times the weights' transpose; on PyTorch's current stream.

        gated: one of ACTIVATIONS; ``y`` (n, rows / 2) = act(the product's first half) times its second.
        """
        args = _Args(
            weights.matrix(),
            x.data_ptr(),
            y.data_ptr(),
            x.shape[0],
            y.stride(0),
            DTYPES["f16" if x.dtype == torch.float16 else "bf16"],
            y.dtype == torch.float32,
            add,
            None if bias is None else bias.data_ptr(),
            workspace.data_ptr(),
            gated is not None,
            0 if gated is None else ACTIVATIONS.index(gated),
        )
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if status := self._library.dca_small_batch(ctypes.byref(args), stream):
            raise RuntimeError(f"dca_small_batch: CUDA error {status}")
