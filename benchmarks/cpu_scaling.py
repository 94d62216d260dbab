"""How prefill and decode grow with the context on a CPU, beside what the arithmetic and the bytes say.

    python benchmarks/cpu_scaling.py FILE.gguf [--threads 2] [--plot docs/cpu-scaling.png]

One dca-bench run: 512 tokens of prefill and 16 of decode after 0 ... 65,024 tokens, the cache filled once
on the way. A token's prefill costs its matrix products, the same everywhere, and its attention, which grows
with the tokens before it: a straight line over the depth. A decoded token costs the bytes of weights and
cache that it reads: another. If GFLOP/s and GB/s stay level, the cost is what the arithmetic says. The table
and the plot show both, with the least-squares line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

PIECE = 512  # tokens of prefill at each depth
DECODED = 16
DEPTHS = [0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536 - PIECE]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=DEPTHS[-1], help="the deepest (default: 65,024)")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    arguments = parser.parse_args()
    depths = [depth for depth in DEPTHS if depth <= arguments.most]
    results = measure(arguments.file, depths, arguments.threads)
    prefill, decode = ([r for r in results if r["test"].startswith(kind)] for kind in ("pp", "tg"))

    table = Table(title=f"{arguments.file.name}, {prefill[0]['attention']}, {arguments.threads} threads")
    for heading in ("after", "prefill/s", "GFLOP/s", "decode/s", "GB/s"):
        table.add_column(heading, justify="right")
    for p, d in zip(prefill, decode, strict=True):
        table.add_row(
            f"{p['depth']:,}",
            f"{p['tokens_per_s']:,.0f}",
            f"{p['gflop_per_s']:.0f}",
            f"{d['tokens_per_s']:.1f}",
            f"{d['gb_per_s']:.1f}",
        )
    console = Console(width=100)
    console.print(table)
    for name, rows in (("prefill", prefill), ("decode", decode)):
        base, slope, worst = line(rows)
        growth = f"{1e3 * slope * 1000:.3f} ms more for every 1,000 tokens before it"
        console.print(f"{name}: {1e3 * base:.3f} ms a token, {growth}; furthest from the line: {worst:.0%}")
    if arguments.plot:
        draw(prefill, decode, arguments.file.name).savefig(arguments.plot, dpi=100)
        console.print(f"wrote {arguments.plot}")


def measure(file: Path, depths: list[int], threads: int) -> list[dict]:
    program = Path(sys.executable).with_name("dca-bench")
    words = [program, file, "-p", PIECE, "-n", DECODED, "-d", ",".join(map(str, depths))]
    words += ["--threads", threads, "-r", 1, "--device", "cpu", "--json"]
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def line(rows: list[dict]) -> tuple[float, float, float]:
    """Seconds a token at depth 0, seconds more a token of depth, and the largest relative distance from it.

    Relative distances are what is made small, so that short contexts count as much as long ones.
    """
    depth, seconds = points(rows)
    design = np.stack([np.ones_like(depth), depth], axis=1) / seconds[:, None]
    base, slope = np.linalg.lstsq(design, np.ones_like(depth), rcond=None)[0]
    return float(base), float(slope), float(np.abs((base + slope * depth) / seconds - 1).max())


def points(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each measured stretch, tokens, and its seconds a token."""
    depth = np.array([row["depth"] + row["tokens"] / 2 for row in rows])
    return depth, np.array([1 / row["tokens_per_s"] for row in rows])


def draw(prefill: list[dict], decode: list[dict], name: str) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{name} on a CPU: milliseconds a token")
    for axes, rows, title in zip(
        figure.subplots(1, 2), (prefill, decode), ("prefill", "decode"), strict=True
    ):
        depth, seconds = points(rows)
        base, slope, _ = line(rows)
        axes.plot(depth, 1e3 * (base + slope * depth), color="tab:gray", label="a + b · tokens before it")
        axes.plot(depth, 1e3 * seconds, "o", color="tab:blue", label="measured")
        axes.set(xlabel="tokens before it", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
