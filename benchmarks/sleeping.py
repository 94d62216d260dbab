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

        def leave() -> None:
            long.sleep()
            while engine.info.tokens_used > 1024:
                step()

        def come() -> None:
            long.wake()
            long.truncate(pages * 128)  # needs all of it

        times: dict[str, list[float]] = {"a step": [], "leaving, steps beside": [], "coming": []}
        for _ in range(args.repeats):
            times["a step"].append(seconds(step))
            times["leaving, steps beside"].append(seconds(leave))
            times["coming"].append(seconds(come))
        long.sleep()
        while engine.info.tokens_used > 1024:
            step()
        long.wake()
        beside = [seconds(step) for _ in range(8)]

        size = pages * page_bytes
        print(f"{model.info.device}: {pages * 128:,} tokens in {args.cache_type}, {size / 1e9:.2f} GB")
        for name, measured in times.items():
            median = statistics.median(measured)
            speed = "" if name == "a step" else f", {size / median / 1e9:.1f} GB/s"
            print(f"{name}: {median * 1e3:.2f} ms{speed}")
        print(f"steps while it comes: {', '.join(f'{s * 1e3:.2f}' for s in beside)} ms")


if __name__ == "__main__":
    main()
