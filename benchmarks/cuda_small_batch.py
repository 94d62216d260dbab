"""Products of a weight matrix with 2 ... 128 rows on one GPU: ours, packed and 16-bit, beside cuBLASLt.

    python benchmarks/cuda_small_batch.py --build build/cuda_small_batch [--formats Q4,F16] [--rows 2,16,64]

Shapes of Llama 3 8B. Every product takes the next of several copies of the matrix, 256 MB of them, so that
the L2 cache serves none; they are recorded in a CUDA graph, and the median of its replays is divided by their
number. GB/s are those of the weights as they lie in memory; the share is of 3.0 TB/s, what an H100 reaches.
cuBLASLt (through PyTorch) multiplies the same rows with 16-bit weights of that shape; beside a quantised
format it therefore leaves out what expanding it would cost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests/cuda"
sys.path[:0] = [str(TESTS / "linear"), str(TESTS)]

from small_batch_library import FORMATS, TORCH_DTYPES, SmallBatchLibrary, Weights  # noqa: E402

SHAPES = {
    "output": (4096, 4096),
    "key": (1024, 4096),
    "qkv": (6144, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "vocabulary": (128256, 4096),
}
ROWS = (2, 4, 8, 16, 32, 64, 128)
COLD_BYTES = 256 << 20  # five times the L2 cache of an H100
PRODUCTS = 24  # of a graph, at least
REPLAYS = 9
REACHED = 3.0e12  # bytes/s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--build", type=Path, default=Path("build/cuda_small_batch"), help="where to compile the kernels"
    )
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="numbers of rows, up to 128")
    parser.add_argument(
        "--dtype", choices=sorted(TORCH_DTYPES), default="f16", help="of x and y (default: f16)"
    )
    arguments = parser.parse_args()
    rows = [int(n) for n in arguments.rows.split(",")]

    library = SmallBatchLibrary.build_for_this_card(arguments.build)
    torch.backends.cuda.preferred_blas_library("cublaslt")
    print(f"{torch.cuda.get_device_name()}, x and y {arguments.dtype}")
    print(
        f"{'format':<7}{'shape':<18}{'rows':>5}{'us':>9}{'GB/s':>8}{'share':>7}"
        f"{'cuBLASLt us':>13}{'GB/s':>8}{'ours':>7}"
    )
    for shape_name in arguments.shapes.split(","):
        shape = SHAPES[shape_name]
        theirs = {n: cublas_us(shape, n, arguments.dtype) for n in rows}
        for name in arguments.formats.split(","):
            if FORMATS[name].low_bits == 16 and name.lower() != arguments.dtype:
                continue
            copies = [Weights(name, *shape)]
            copies += [Weights(name, *shape, seed) for seed in range(1, needed(copies[0].bytes))]
            for n in rows:
                us = ours_us(library, copies, n, arguments.dtype)
                rate, their_rate = copies[0].bytes / us / 1e3, 2 * shape[0] * shape[1] / theirs[n] / 1e3
                ours = f"{us:>9.2f}{rate:>8.0f}{rate * 1e9 / REACHED:>7.0%}"
                beside = f"{theirs[n]:>13.2f}{their_rate:>8.0f}{theirs[n] / us:>6.2f}x"
                print(f"{name:<7}{f'{shape[0]}x{shape[1]}':<18}{n:>5}{ours}{beside}", flush=True)
            del copies


def needed(weight_bytes: int) -> int:
    """Copies of a matrix that the L2 cache cannot hold."""
    return max(2, -(-COLD_BYTES // weight_bytes))


def ours_us(library: SmallBatchLibrary, copies: list[Weights], n: int, dtype: str) -> float:
    x, y = operands((copies[0].rows, copies[0].cols), n, dtype)
    workspace = library.workspace(n)
    return product_us(len(copies), lambda i: library.multiply(copies[i], x, y, workspace))


def cublas_us(shape: tuple[int, int], n: int, dtype: str) -> float:
    x, y = operands(shape, n, dtype)
    copies = [
        0.03 * torch.randn(shape, device="cuda", dtype=TORCH_DTYPES[dtype])
        for _ in range(needed(2 * shape[0] * shape[1]))
    ]
    return product_us(len(copies), lambda i: torch.mm(x, copies[i].T, out=y))


def operands(shape: tuple[int, int], n: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, shape[1], device="cuda").to(TORCH_DTYPES[dtype])
    return x, torch.empty(n, shape[0], device="cuda", dtype=TORCH_DTYPES[dtype])


def product_us(copies: int, multiply: Callable[[int], object]) -> float:
    """Microseconds of multiply(copy), the copies taking turns in one graph."""
    count = copies * -(-PRODUCTS // copies)
    multiply(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            multiply(i % copies)
    times = []
    for _ in range(REPLAYS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / count)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
