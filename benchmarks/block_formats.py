"""Block formats: how fast they encode and decode, and what encoding loses.

    python benchmarks/block_formats.py [--ggml libggml-base.so] [--threads 1] [--values 16777216]

Speed is in million values a second, beside it the GB/s of f32 that amounts to; copying f32 is the limit.
The error is the root mean square error over the values' own, on normal values. With --ggml, a build of
llama.cpp's library, its reference quantisers (on one thread) encode the same values in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from rich.console import Console
from rich.table import Table

from dca_runtime import blocks

TYPES = [
    *(T.F32, T.F16, T.BF16, T.Q8_0, T.Q6_K, T.Q5_K, T.Q5_1, T.Q5_0),
    *(T.Q4_K, T.Q4_1, T.Q4_0, T.IQ4_NL, T.Q3_K, T.Q2_K),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ggml", type=Path, metavar="LIBRARY", help="llama.cpp's libggml-base.so")
    parser.add_argument("--threads", type=int, default=1, help="ours; 0: every core (default: 1)")
    parser.add_argument("--values", type=int, default=1 << 24, help="values to convert (default: 2**24)")
    arguments = parser.parse_args()

    rows = max(1, arguments.values // 4096)
    values = (0.02 * np.random.default_rng(0).standard_normal((rows, 4096))).astype(np.float32)
    ggml = ctypes.CDLL(str(arguments.ggml)) if arguments.ggml else None
    table = Table(title=f"{values.size:,} values, {arguments.threads or 'all'} threads")
    for heading in ("type", "encode", "GB/s", "decode", "GB/s", "error", "ggml encode", "ggml error"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for kind in TYPES:
        encoded, seconds = fastest(lambda kind=kind: blocks.encode(kind, values, arguments.threads))
        decoded, decoding = fastest(lambda kind=kind, e=encoded: blocks.decode(kind, e, arguments.threads))
        cells = [kind.name, *speed(values, seconds), *speed(values, decoding)]
        cells.append(f"{error(values, decoded):.5f}")
        if ggml is not None and (quantise := ggml_quantiser(ggml, kind)) is not None:
            theirs, seconds = fastest(lambda q=quantise: q(values))
            decoded = gguf.quants.dequantize(theirs, kind)
            cells += [speed(values, seconds)[0], f"{error(values, decoded):.5f}"]
        table.add_row(*cells)
    Console().print(table)


def fastest(run: Callable[[], np.ndarray], times: int = 3) -> tuple[np.ndarray, float]:
    """The result, and the shortest time of a few runs in seconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def speed(values: np.ndarray, seconds: float) -> tuple[str, str]:
    return f"{values.size / seconds / 1e6:,.0f}", f"{values.nbytes / seconds / 1e9:.1f}"


def error(values: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.linalg.norm((values - decoded).ravel()) / np.linalg.norm(values.ravel()))


def ggml_quantiser(ggml: ctypes.CDLL, kind: T) -> Callable[[np.ndarray], np.ndarray] | None:
    """ggml's reference quantiser of a block format; None where it has none of that name."""
    name = f"quantize_row_{kind.name.lower().replace('_k', '_K')}_ref"
    if not hasattr(ggml, name):
        return None

    def quantise(values: np.ndarray) -> np.ndarray:
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        out = np.empty((values.shape[0], values.shape[1] // block_size * block_bytes), np.uint8)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (values, out))
        getattr(ggml, name)(*pointers, ctypes.c_int64(values.size))
        return out

    return quantise


if __name__ == "__main__":
    main()
