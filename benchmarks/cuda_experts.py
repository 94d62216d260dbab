"""How two cards best share a mixture: each with half of every expert's columns, or half of the experts.

    python benchmarks/cuda_experts.py --directory /dev/shm

Times on one card what a rank of two has to do, without the sums that both ways have alike: random files in
the shape of a rank, a few layers of it. Of the experts that a token uses either card has any number; the
slower one counts, so the times of every number are weighted by how often it is the larger one, were all
experts equally likely. Of many tokens each has about half.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from random_gguf import SHAPES, Shape, write_random_gguf

import dca_runtime as dca
from dca_runtime.measuring.bench_batches import measure_batches

LAYERS = {"mixtral-8x7b": 2, "qwen3-30b-a3b": 4}
PREFILL, DECODED, SEQUENCES = 8192, 64, 64


def rank_of(shape: Shape, layers: int) -> Shape:
    """Half the heads and the vocabulary of a few layers; the experts are for the caller."""
    return dataclasses.replace(
        shape,
        layers=layers,
        heads=shape.heads // 2,
        kv_heads=shape.kv_heads // 2,
        vocab=shape.vocab // 2,
    )


def larger_halves(experts: int, used: int) -> dict[int, float]:
    """How likely it is that of a token's experts the card with more of them has so many."""
    half, ways = experts // 2, math.comb(experts, used)
    likely: dict[int, float] = {}
    for on_first in range(used + 1):
        larger = max(on_first, used - on_first)
        share = math.comb(half, on_first) * math.comb(experts - half, used - on_first) / ways
        likely[larger] = likely.get(larger, 0.0) + share
    return likely


def timed(path: Path, device: str, used: int, rows: bool) -> dict[str, float]:
    """Milliseconds of a step of one token that takes `used` experts; with `rows` of a prefill and of a step
    of many sequences too."""
    _set_used(path, used)
    with dca.Model(path, device=device) as model:
        found = {}
        with model.session(PREFILL + DECODED) as session:
            ids = np.random.default_rng(0).integers(0, model.info.n_vocab, PREFILL, np.int32)
            if rows:
                found["prefill"] = _median(lambda: (session.truncate(0), session.eval(ids)), 4)
            session.truncate(0)
            found["decode"] = _median(lambda: session.eval(ids[:1]), DECODED)
        if rows:
            (batch,) = measure_batches(model, [SEQUENCES], 128, DECODED)
            found["many"] = SEQUENCES / batch.decode_tokens_per_s * 1e3
        return found


def _set_used(path: Path, used: int) -> None:
    """Writes the number of experts that a token uses over the one in the file."""
    with path.open("r+b") as file:
        at = file.read(1 << 16).index(b".expert_used_count") + len(b".expert_used_count") + 4  # its type
        file.seek(at)
        file.write(struct.pack("<I", used))


def _median(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--directory", type=Path, default=Path("/tmp"), help="for the random files")
    arguments = parser.parse_args()
    path = arguments.directory / "experts.gguf"

    print(f"a rank of two, ms: prefill {PREFILL:,}, decode, a step of {SEQUENCES} sequences")
    for name in arguments.shapes:
        whole, rank = SHAPES[name], rank_of(SHAPES[name], LAYERS[name])
        write_random_gguf(path, dataclasses.replace(rank, ff=whole.ff // 2), gguf.GGMLQuantizationType.F16)
        columns = timed(path, arguments.device, whole.experts_used, True)
        write_random_gguf(
            path, dataclasses.replace(rank, experts=whole.experts // 2), gguf.GGMLQuantizationType.F16
        )
        experts = timed(path, arguments.device, whole.experts_used // 2, True)
        experts["decode"] = sum(
            share * timed(path, arguments.device, used, False)["decode"]
            for used, share in larger_halves(whole.experts, whole.experts_used).items()
        )
        path.unlink()
        for way, found in (("by columns", columns), ("by experts", experts)):
            figures = ", ".join(f"{found[key]:.3f}" for key in ("prefill", "decode", "many"))
            print(f"{name}, {rank.layers} layers, {way}: {figures}", flush=True)


if __name__ == "__main__":
    main()
