"""Measures many sequences at once: the prompts of all, then decode steps of all, and the bytes these read."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dca_runtime.engine import Engine, TokenSequence
from dca_runtime.measuring.bench import WARM_UP_TOKENS, random_tokens
from dca_runtime.model import Model, ModelInfo
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.sampling import Sampling

WARM_UP_STEPS = 2  # of decode: a GPU records a step at the second


@dataclass(frozen=True)
class BatchResult:
    """Speed of ``sequences`` sequences together; tokens/s are of all of them."""

    sequences: int
    prompt: int  # tokens of each
    generated: int  # likewise
    shared_prompt: bool  # it is one prompt, read once
    prefill_tokens_per_s: float  # mean over the repeats; of a shared prompt its tokens count once
    decode_tokens_per_s: float  # mean
    decode_stdev: float  # 0 for a single repeat
    gb_per_s: float | None  # of decode: decode_bytes, 10^9 a second; None: see there
    share: float | None  # of the decode that `bandwidth` would allow, 1 is all of it
    attention: str  # "plain", "dca"
    cache_type: str
    device: str
    repeats: int
    prefill: str = "dense"
    density: tuple[tuple[float, ...], ...] | None = (
        None  # of sparse prefill, as in EngineInfo, of all runs so far
    )


def measure_batches(
    model: Model,
    sizes: Sequence[int],
    prompt: int,
    generate: int,
    shared_prompt: bool = False,
    bandwidth: float | None = None,
    repeats: int = 1,
    attention: str = "auto",
    cache_type: str = "f16",
    prefill: str = "dense",
) -> Iterator[BatchResult]:
    """One result for each number of sequences, in one engine; greedy choices, made in the library.

    bandwidth: 10^9 bytes a second that the memory gives, for the share of the limit; None: no share.
    """
    room = max(_pages(size, prompt, generate, shared_prompt) for size in sizes) * PAGE_TOKENS
    with model.engine(tokens=room, attention=attention, cache_type=cache_type, prefill=prefill) as engine:
        with engine.sequence() as warm:
            engine.eval([(warm, random_tokens(model, min(WARM_UP_TOKENS, prompt)))])
        scheme, border = engine.info.scheme, engine.info.border
        for size in sizes:
            runs = [_run(engine, model, size, prompt, generate, shared_prompt) for _ in range(repeats)]
            read = decode_bytes(model.info, engine, size, prompt, generate, shared_prompt)
            rates = [size * generate / seconds for _, seconds in runs]
            rate = statistics.mean(rates)
            speed = None if read is None else read / (size * generate) * rate / 1e9
            yield BatchResult(
                sequences=size,
                prompt=prompt,
                generated=generate,
                shared_prompt=shared_prompt,
                prefill_tokens_per_s=statistics.mean(
                    (prompt if shared_prompt else size * prompt) / seconds for seconds, _ in runs
                ),
                decode_tokens_per_s=rate,
                decode_stdev=statistics.stdev(rates) if repeats > 1 else 0.0,
                gb_per_s=speed,
                share=None if bandwidth is None or speed is None else speed / bandwidth,
                attention=engine.attention
                if engine.attention != "auto"
                else border or ("plain" if scheme is None else "dca"),
                cache_type=cache_type,
                device=model.info.device,
                repeats=repeats,
                prefill=engine.prefill,
                density=engine.info.density,
            )


def decode_bytes(
    info: ModelInfo, engine: Engine, sequences: int, prompt: int, generate: int, shared_prompt: bool
) -> float | None:
    """Bytes that all decode steps read at least: every weight but the input embedding and what the caches
    hold, once a step; a shared prompt's part of them once for all sequences.

    None for several sequences of a mixture: how many experts' weights a step reads depends on its tokens.
    """
    if info.n_experts and sequences > 1:
        return None
    state = engine.info
    capacity = -(-state.tokens // PAGE_TOKENS) * PAGE_TOKENS
    prompts = prompt * (1 if shared_prompt else sequences)
    cached = prompts * generate + sequences * generate * (generate + 1) / 2  # tokens read, over all steps
    return float(info.weight_bytes_used) * generate + state.cache_bytes / capacity * cached


def _pages(sequences: int, prompt: int, generate: int, shared_prompt: bool) -> int:
    """Of the pool. The steps that warm up are a few tokens more."""
    tokens = prompt + generate + WARM_UP_STEPS
    whole = -(-tokens // PAGE_TOKENS)
    if not shared_prompt:
        return sequences * whole
    return prompt // PAGE_TOKENS + 1 + sequences * (whole - prompt // PAGE_TOKENS)


def _run(
    engine: Engine, model: Model, size: int, prompt: int, generate: int, shared_prompt: bool
) -> tuple[float, float]:
    """Seconds of prefill and of decode."""
    ids = random_tokens(model, size * prompt).reshape(size, prompt)
    sequences = [engine.sequence()]
    start = time.perf_counter()
    if shared_prompt:
        engine.eval([(sequences[0], ids[0])], logits=False)
        sequences += [sequences[0].fork() for _ in range(size - 1)]
    else:
        sequences += [engine.sequence() for _ in range(size - 1)]
        engine.eval(list(zip(sequences, ids, strict=True)), logits=False)
    prefill = time.perf_counter() - start

    decode(engine, sequences, WARM_UP_STEPS)
    for sequence in sequences:
        sequence.truncate(prompt)
    start = time.perf_counter()
    decode(engine, sequences, generate)
    seconds = time.perf_counter() - start
    for sequence in sequences:
        sequence.close()
    return prefill, seconds


def decode(engine: Engine, sequences: Sequence[TokenSequence], steps: int) -> None:
    """Greedy steps of all sequences, each with the token that the step before chose."""
    greedy = Sampling(temperature=0)
    tokens = [[number % engine.n_vocab] for number in range(len(sequences))]
    items = [(sequence, token, greedy) for sequence, token in zip(sequences, tokens, strict=True)]
    for _ in range(steps):
        for token, chosen in zip(tokens, engine.sample(items), strict=True):
            token[0] = chosen
