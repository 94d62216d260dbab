"""CPU speed beside llama.cpp's, in one run: the same files, the same threads, ours and theirs in turn.

    python benchmarks/cpu.py FILE.gguf ... [--llama-bench PATH] [--threads 2] [--rounds 3]

Every round runs each test once with llama-bench (plain attention) and once with dca-bench (as the file
says: DCA where it has a scheme), so that a machine whose speed drifts slows both. Medians are printed,
and the ratio of each pair's. Beside ours stand the GFLOP/s or GB/s they amount to and what share that is
of this machine's own limits, measured first: a matrix product of NumPy's, and reading a large array.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

TESTS = [("pp512", 512, 0, 0), ("pp4096", 4096, 0, 0), ("pp16384", 16384, 0, 0)]
TESTS += [("tg64", 0, 64, 0), ("tg64@d8192", 0, 64, 8192)]  # name, prompt, generate, depth
LONG = 1024  # tokens; a warm-up as long as the test would only double the time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument("--llama-bench", type=Path, metavar="PATH", help="of llama.cpp; without it only ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tests", default=",".join(name for name, *_ in TESTS), help="which (default: all)")
    arguments = parser.parse_args()
    wanted = [test for test in TESTS if test[0] in arguments.tests.split(",")]

    peak, bandwidth = matrix_rate(), read_rate(arguments.threads)
    console = Console(width=140)
    console.print(
        f"limits of this machine: {peak:.0f} GFLOP/s (f32 matrix product), {bandwidth:.1f} GB/s read"
    )
    table = Table(title=f"tokens/s, {arguments.threads} threads, medians of {arguments.rounds}")
    for heading in ("file", "test", "llama.cpp", "ours", "ratio", "amounts to", "of the limit"):
        table.add_column(heading, justify="left" if heading in ("file", "test") else "right")
    for file in arguments.files:
        for test in wanted:
            theirs, ours, ratios, result = [], [], [], {}
            for _ in range(arguments.rounds):
                if arguments.llama_bench:
                    theirs.append(llama_bench(arguments.llama_bench, file, test, arguments.threads))
                result = dca_bench(file, test, arguments.threads)
                ours.append(result["tokens_per_s"])
                if theirs:
                    ratios.append(ours[-1] / theirs[-1])
            rate = statistics.median(ours)
            unit, limit = ("gflop_per_s", peak) if test[1] else ("gb_per_s", bandwidth)
            amount = result[unit] * rate / result["tokens_per_s"]
            table.add_row(
                file.name,
                test[0],
                f"{statistics.median(theirs):.1f}" if theirs else "",
                f"{rate:.1f}",
                f"{statistics.median(ratios):.2f}" if ratios else "",
                f"{amount:.1f} {'GFLOP/s' if test[1] else 'GB/s'}",
                f"{amount / limit:.0%}",
            )
            print(f"{file.name} {test[0]}: llama.cpp {theirs}, ours {ours}", file=sys.stderr)
    console.print(table)


def llama_bench(program: Path, file: Path, test: tuple, threads: int) -> float:
    """llama-bench's tokens/s in one repetition, flash attention as it chooses; short tests warmed up."""
    _, prompt, generate, depth = test
    command = [program, "-m", file, "-p", prompt, "-n", generate, "-d", depth]
    command += ["-t", threads, "-r", 1, "-o", "json"]
    if prompt + depth > LONG:
        command.append("--no-warmup")
    return output(command)[0]["avg_ts"]


def dca_bench(file: Path, test: tuple, threads: int) -> dict:
    _, prompt, generate, depth = test
    command = [Path(sys.executable).with_name("dca-bench"), file, "-p", prompt, "-n", generate, "-d", depth]
    command += ["--threads", threads, "-r", 1, "--device", "cpu", "--json"]
    return output(command)[0]


def output(command: list) -> list[dict]:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def matrix_rate() -> float:
    """GFLOP/s of a 2048-square f32 product through NumPy's BLAS, the best of five."""
    a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds) / 1e9


def read_rate(threads: int) -> float:
    """GB/s at which that many threads read 1 GiB (a dot product with itself), the best of five."""
    parts = np.array_split(np.ones(1 << 28, np.float32), threads)
    seconds = []
    for _ in range(6):
        workers = [threading.Thread(target=np.dot, args=(part, part)) for part in parts]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds.append(time.perf_counter() - start)
    return (1 << 30) / min(seconds) / 1e9


if __name__ == "__main__":
    main()
