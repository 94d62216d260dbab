"""How fast sequences leave for host memory and come back, and what that costs the steps meanwhile.

    python benchmarks/sleeping.py MODEL.gguf --device cuda --tokens 32768

One sequence of that many tokens sleeps and wakes: alone, then while another one decodes. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import dca_runtime as dca


def seconds(action) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    with (
        dca.Model(args.model, device=args.device) as model,
        model.engine(tokens=args.tokens + 4096, cache_type=args.cache_type) as engine,
    ):
        page_bytes = engine.setup.page_bytes
        long, other = engine.sequence(), engine.sequence()
        # What the keys and values are does not matter to their way.
        pages = args.tokens // 128
        zeros = np.zeros(page_bytes, np.uint8)
        for _ in range(pages):
            long.append_pages(np.ones(128, np.int32), zeros)
        engine.eval([(other, [1] * 100)], logits=False)

        def step() -> None:
            engine.eval([(other, [1])])

        def steps_until(done) -> list[float]:
            """Seconds of each step until ``done()``."""
            steps = []
            while not done():
                steps.append(seconds(step))
            return steps

        def has_left() -> bool:
            return engine.info.tokens_used <= 1024

        names = (
            "a step",
            "asked to leave",
            "left",
            "step meanwhile",
            "asked to come",
            "came",
            "step till then",
        )
        times: dict[str, list[float]] = {name: [] for name in names}
        for repeat in range(args.repeats + 1):  # the first makes the memory
            alone = [seconds(step) for _ in range(5)]
            asked = [seconds(long.sleep)]
            begin = time.perf_counter() - asked[0]
            leaving = steps_until(has_left)
            left = time.perf_counter() - begin
            begin = time.perf_counter()
            asked.append(seconds(long.wake))
            coming = steps_until(lambda: long.in_place)
            came = time.perf_counter() - begin
            if repeat == 0:
                print(f"asked to leave for the first time, its memory made: {asked[0] * 1e3:.0f} ms")
                continue
            for name, measured in zip(
                names, (alone, asked[:1], [left], leaving, asked[1:], [came], coming), strict=True
            ):
                times[name] += measured

        size = pages * page_bytes
        print(f"{model.info.device}: {pages * 128:,} tokens in {args.cache_type}, {size / 1e9:.2f} GB")
        for name, measured in times.items():
            median = statistics.median(measured) if measured else float("nan")
            speed = f", {size / median / 1e9:.1f} GB/s" if name in ("left", "came") else ""
            most = f", at most {max(measured) * 1e3:.2f}" if measured else ""
            print(f"{name}: {median * 1e3:.2f} ms{most}{speed}")


if __name__ == "__main__":
    main()
