"""How long the streams of some sequences pause while another one's long prompt is read, a piece a step.

    python benchmarks/prefill_while_decoding.py FILE.gguf [--sequences 16] [--context 1024] [--prompt 32768]
        [--piece 512] [--rounds 3]

Three runs over the same tokens: as many decode steps as the prompt has pieces, alone; the prompt's pieces,
alone; both, every step with a token of each sequence and a piece. A gap is the time from a sequence's token
to its next. Wanted: a gap is at most a step plus a piece (the same step's and the same piece's, for pieces
grow with what they look back on), and both take at most 1.1 times as long as one after the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import dca_runtime as dca
from dca_runtime.engine import Engine, TokenSequence
from dca_runtime.measuring.bench import random_tokens
from dca_runtime.options import PAGE_TOKENS

GREEDY = dca.Sampling(temperature=0)
WARM_UP_STEPS = 3  # a GPU records a step of some size at the second


@dataclasses.dataclass(frozen=True)
class Round:
    """Seconds by step."""

    decode: np.ndarray
    pieces: np.ndarray
    both: np.ndarray

    @property
    def limit(self) -> float:
        """Of the 99th percentile of gaps."""
        return float(np.quantile(self.decode + self.pieces, 0.99))

    @property
    def ratio(self) -> float:
        """Of doing both to one after the other."""
        return float(self.both.sum() / (self.decode.sum() + self.pieces.sum()))


def measure(engine: Engine, context: int, n_sequences: int, prompt: Sequence[int], piece: int) -> Round:
    """One round. ``prompt`` has a whole number of pieces."""
    sequences = [engine.sequence() for _ in range(n_sequences)]
    ids = np.random.default_rng(0).integers(0, engine.n_vocab, (n_sequences, context), np.int32)
    engine.eval(list(zip(sequences, ids, strict=True)), logits=False)
    pieces = [prompt[at : at + piece] for at in range(0, len(prompt), piece)]

    def steps(decoding: bool, reading: bool, count: int = len(pieces)) -> np.ndarray:
        reader = engine.sequence()
        seconds = []
        for number in range(count):
            items: list[tuple[TokenSequence, Sequence[int], dca.Sampling]] = []
            if decoding:
                items += [(sequence, [number % engine.n_vocab], GREEDY) for sequence in sequences]
            if reading:
                items.append((reader, pieces[number], GREEDY))
            start = time.perf_counter()
            engine.sample(items)
            seconds.append(time.perf_counter() - start)
        reader.close()
        for sequence in sequences:
            sequence.truncate(context)
        return np.array(seconds)

    for decoding, reading in ((True, False), (False, True), (True, True)):
        steps(decoding, reading, min(WARM_UP_STEPS, len(pieces)))
    result = Round(steps(True, False), steps(False, True), steps(True, True))
    for sequence in sequences:
        sequence.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024, help="tokens of each before it decodes")
    parser.add_argument("--prompt", type=int, default=32768, help="tokens, rounded down to whole pieces")
    parser.add_argument("--piece", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    length = arguments.prompt // arguments.piece * arguments.piece
    of_each = arguments.context + length // arguments.piece
    room = length + arguments.sequences * (of_each + PAGE_TOKENS) + PAGE_TOKENS
    with (
        dca.Model(arguments.file, device=arguments.device) as model,
        model.engine(tokens=room, attention=arguments.attention, cache_type=arguments.cache_type) as engine,
    ):
        prompt = random_tokens(model, length)
        print(
            f"{arguments.file.name} on {model.info.device}: {arguments.sequences} sequences from "
            f"{arguments.context:,} tokens on, {length:,} read in pieces of {arguments.piece}",
            flush=True,
        )
        for _ in range(arguments.rounds):
            print(
                line(measure(engine, arguments.context, arguments.sequences, prompt, arguments.piece)),
                flush=True,
            )


def line(round_: Round) -> str:
    """A round's figures."""
    gap = np.quantile(round_.both, 0.99)
    return (
        f"step {1e3 * np.median(round_.decode):.1f} ms, piece {1e3 * np.median(round_.pieces):.1f} "
        f"(last {1e3 * round_.pieces[-1]:.1f}); gaps p50 {1e3 * np.median(round_.both):.1f} ms, "
        f"p99 {1e3 * gap:.1f} (wanted at most {1e3 * round_.limit:.1f}), "
        f"longest {1e3 * round_.both.max():.1f}; "
        f"both {round_.both.sum():.2f} s, {round_.ratio:.2f} of one after the other"
    )


if __name__ == "__main__":
    main()
