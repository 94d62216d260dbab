"""Measures speed: prefill and decode, at given depths, and the bandwidth or arithmetic they amount to."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dca_runtime.attention import parse
from dca_runtime.model import Model, ModelInfo
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.session import Session

WARM_UP_TOKENS = 64  # enough to touch every weight and start every thread


@dataclass(frozen=True)
class Test:
    """``tokens`` tokens after ``depth`` tokens that are in the cache already."""

    kind: str  # "pp": prefill, all in one call; "tg": decode, one token a call
    tokens: int
    depth: int

    @property
    def name(self) -> str:
        """As llama-bench calls it: pp512, tg64@d8192."""
        return f"{self.kind}{self.tokens}" + (f"@d{self.depth}" if self.depth else "")


@dataclass(frozen=True)
class Result:
    """One test's speed, over its repeats."""

    test: str
    tokens: int
    depth: int
    tokens_per_s: float  # mean
    stdev: float  # of tokens_per_s; 0 for a single repeat
    gflop_per_s: float | None  # prefill: matrix products and attention, 10^9 operations a second
    gb_per_s: float | None  # decode: weights and cache read, 10^9 bytes a second
    attention: str  # as ``Model.session`` takes it, but for "auto"
    cache_type: str
    device: str
    threads: int  # as asked for; 0: the library's choice, which `device` names
    repeats: int
    prefill: str = "dense"
    density: tuple[tuple[float, ...], ...] | None = (
        None  # of sparse prefill, as in SessionInfo, of all tests so far
    )

    @property
    def mean_density(self) -> float | None:
        """Over layers and heads; None where prefill is dense or there was none."""
        known = [value for layer in self.density or () for value in layer if not math.isnan(value)]
        return statistics.mean(known) if known else None


def tests(prompts: Sequence[int], generations: Sequence[int], depths: Sequence[int]) -> list[Test]:
    """Every prompt length and number of generated tokens at every depth; zeros are left out."""
    sizes = [("pp", tokens) for tokens in prompts] + [("tg", tokens) for tokens in generations]
    return [Test(kind, tokens, depth) for depth in depths for kind, tokens in sizes if tokens]


def measure(
    model: Model,
    planned: Sequence[Test],
    repeats: int = 5,
    attention: str = "auto",
    cache_type: str = "f16",
    threads: int = 0,
    prefill: str = "dense",
) -> Iterator[Result]:
    """Runs the tests in one session, on random tokens; the cache of a depth is filled once for its tests.

    ``threads`` is only passed on to the results.
    """
    context = max(max(test.depth + test.tokens for test in planned), WARM_UP_TOKENS + 1)
    tokens = random_tokens(model, context)
    with model.session(
        context=context, attention=attention, cache_type=cache_type, prefill=prefill
    ) as session:
        warm_up(session, tokens)
        for test in planned:
            rates = []
            for _ in range(repeats):
                _fill(session, tokens, test.depth)
                rates.append(test.tokens / seconds(session, tokens, test))
            rate = statistics.mean(rates)
            yield Result(
                test=test.name,
                tokens=test.tokens,
                depth=test.depth,
                tokens_per_s=rate,
                stdev=statistics.stdev(rates) if repeats > 1 else 0.0,
                gflop_per_s=prefill_flop(model.info, session, test) / test.tokens * rate / 1e9
                if test.kind == "pp"
                else None,
                gb_per_s=decode_bytes(model.info, session, test) / test.tokens * rate / 1e9
                if test.kind == "tg"
                else None,
                attention=attention_name(session),
                cache_type=cache_type,
                device=model.info.device,
                threads=threads,
                repeats=repeats,
                prefill=session.prefill,
                density=session.info.density,
            )


def random_tokens(model: Model, count: int) -> np.ndarray:
    """Ids int32 (count,), the same at every call: what is said does not change how long it takes."""
    return np.random.default_rng(0).integers(0, model.info.n_vocab, count, np.int32)


def warm_up(session: Session, tokens: np.ndarray) -> None:
    """Touches what the first calls of an empty session would pay for; it must hold as many as ``tokens``."""
    session.append(tokens[: min(WARM_UP_TOKENS, len(tokens) - 1)])
    session.eval(tokens[:1])
    session.truncate(0)


def seconds(session: Session, tokens: np.ndarray, test: Test) -> float:
    """How long ``test`` takes; the session must hold ``test.depth`` tokens, and holds the test's too then."""
    new = tokens[test.depth : test.depth + test.tokens]
    start = time.perf_counter()
    if test.kind == "pp":
        session.eval(new)
    else:
        for index in range(len(new)):
            session.eval(new[index : index + 1])
    return time.perf_counter() - start


def attention_name(session: Session) -> str:
    """What "auto" came to."""
    if session.attention != "auto":
        return session.attention
    return session.info.border or ("plain" if session.info.scheme is None else "dca")


def keys_seen(session: Session, test: Test) -> float:
    """Keys that the test's tokens attend to, summed over them."""
    state, lengths = session.info, np.arange(test.depth, test.depth + test.tokens) + 1
    if session.attention == "intra" and state.scheme is not None:
        lengths = (lengths - 1) % state.scheme.chunk_size + 1  # no further than its own chunk
    if state.border is not None and (rule := parse(state.border)).kind != "string":
        lengths = np.minimum(lengths, rule.window) + np.clip(lengths - rule.window, 0, rule.beyond)
    return float(lengths.sum())


def prefill_flop(info: ModelInfo, session: Session, test: Test) -> float:
    """Operations of a prefill: its matrix products, the logits of the last token, causal attention."""
    queries, keys = info.n_heads * info.head_dim, info.n_kv_heads * info.head_dim
    attention_weights = info.n_embd * (2 * queries + 2 * keys)
    feed_forward_weights = 3 * info.n_embd * info.n_ff * max(info.n_experts_used, 1)
    matrices = 2.0 * info.n_layers * (attention_weights + feed_forward_weights) * test.tokens
    attended = 4.0 * info.n_layers * queries * keys_seen(session, test)
    return matrices + attended + 2.0 * info.n_embd * info.n_vocab


def decode_bytes(info: ModelInfo, session: Session, test: Test) -> float:
    """Bytes that decoding reads: all weights for every token, and the cache filled so far."""
    state = session.info
    cached = keys_seen(session, test)
    capacity = -(-state.context // PAGE_TOKENS) * PAGE_TOKENS
    return float(info.weight_bytes_used) * test.tokens + state.cache_bytes / capacity * cached


def _fill(session: Session, tokens: np.ndarray, depth: int) -> None:
    length = min(session.length, depth)
    session.truncate(length)
    if length < depth:
        session.append(tokens[length:depth])
