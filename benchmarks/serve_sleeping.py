"""What it costs a server to let a conversation sleep in host memory and to wake it, against reading it again.

    python benchmarks/serve_sleeping.py MODEL.gguf --device cuda --tokens 32768 --streams 8

The thread that steps (no HTTP) writes some streams. Beside them a long conversation is read, then another,
for which the first must leave the pool, then each is asked again: once with host memory to sleep in, once
without. For each it prints how long its first token took and the gaps in the streams until then. While
conversations leave for the first time the memory is made, too.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass, field

import numpy as np

import dca_runtime as dca
from dca_runtime.engine import Engine
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Failed, Finished, Job, Started, Token
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping.host_memory import HostMemory
from dca_runtime.server.stepping.sleepers import Sleepers
from dca_runtime.server.stepping.stepper import Stepper

STREAM_TOKENS = 2048  # room for each stream's answer
QUIET_SECONDS = 1.0  # of streams alone
GREEDY = dca.Sampling(temperature=0)


@dataclass
class Seen:
    """What came for a job."""

    times: list[float] = field(default_factory=list)  # of tokens
    cached: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def take(self, event: object) -> None:
        if isinstance(event, Token):
            self.times.append(time.perf_counter())
        elif isinstance(event, Started):
            self.cached = event.cached_tokens
        elif isinstance(event, Failed):
            print(f"failed: {event.error}", flush=True)
        if isinstance(event, Failed | Finished):
            self.over.set()


def prompt(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(10, 1000, count).tolist()


def gaps(streams: list[Seen], begin: float, end: float) -> str:
    """Between tokens of the same stream, of those that ended in that time."""
    all_of_them = [
        later - sooner
        for stream in streams
        for sooner, later in zip(stream.times, stream.times[1:], strict=False)
        if begin < later <= end
    ]
    if not all_of_them:
        return "no stream wrote"
    p50, p99, most = (1e3 * float(np.quantile(all_of_them, q)) for q in (0.5, 0.99, 1.0))
    speed = len(all_of_them) / len(streams) / (end - begin)
    return f"streams' gaps p50 {p50:.1f}, p99 {p99:.1f}, most {most:.1f} ms, {speed:.1f} tokens/s each"


def measure(engine: Engine, args: argparse.Namespace, sleepers: Sleepers | None) -> None:
    """The conversations with a stepping thread of their own, in turn."""

    def hand_over(delivery: list) -> None:
        for job, event in delivery:
            job.deliver(event)

    stepper = Stepper(engine, Settings("x"), Metrics("x"), hand_over, None, sleepers)
    stepper.start()
    streams = [Seen() for _ in range(args.streams)]
    jobs = [
        Job(prompt(n, PAGE_TOKENS), STREAM_TOKENS, GREEDY, stream.take, cache_prompt=False)
        for n, stream in enumerate(streams)
    ]
    for job in jobs:
        stepper.submit(job)
    while not all(stream.times for stream in streams):
        time.sleep(0.01)
    begin = time.perf_counter()
    time.sleep(QUIET_SECONDS)
    print(f"  alone: {gaps(streams, begin, time.perf_counter())}", flush=True)
    asked = [("first", 100, 0), ("second", 101, 0)] + [("first", 100, 1), ("second", 101, 1)] * args.repeats
    for name, seed, again in asked:
        seen = Seen()
        begin = time.perf_counter()
        stepper.submit(Job(prompt(seed, args.tokens) + [5] * 8, 2, GREEDY, seen.take))
        seen.over.wait(120)
        end = seen.times[0] if seen.times else time.perf_counter()
        what = f"{name} conversation{' again' if again else ''}, {args.tokens} tokens"
        print(f"  {what}: first token after {1e3 * (end - begin):.0f} ms, {seen.cached} tokens were there")
        print(f"    {gaps(streams, begin, end)}", flush=True)
        time.sleep(0.3)
    for job in jobs:
        job.cancelled = True
    stepper.stop()
    stepper.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-comparison", action="store_true", help="with host memory alone")
    args = parser.parse_args()

    room = args.tokens + args.tokens // 4 + args.streams * (STREAM_TOKENS + 2 * PAGE_TOKENS)
    with dca.Model(args.model, device=args.device) as model:
        print(f"{model.info.device}: {args.tokens} tokens in {args.cache_type}, {args.streams} streams")
        for host in (True,) if args.no_comparison else (True, False):
            with model.engine(tokens=room, cache_type=args.cache_type) as engine:
                sleepers = None
                if host:
                    page_bytes, pages = engine.setup.page_bytes, 3 * args.tokens // PAGE_TOKENS
                    sleepers = Sleepers(HostMemory(engine, page_bytes, pages * page_bytes))
                print("with host memory:" if host else "without:", flush=True)
                measure(engine, args, sleepers)


if __name__ == "__main__":
    main()
