"""The CUDA backend against the CPU backend, whose kernels and weight layouts it shares no code with."""

import numpy as np

from dca_runtime import Model

# Mean KL divergence (nats) from the CPU's distribution, where activations are kept in f32. Activations
# rounded to 11 bits (f16) move these models' logits, of standard deviation 1, by about 5e-3, so the mean
# KL is about 1e-5 and a few times that at single positions; 8 bits (bf16) move them eight times as far.
# A wrong position or a swapped scale costs more than 1e-2.
F16_KL = 1e-4
BF16_KL = 3e-3


def tokens(path, count: int, seed: int = 0) -> np.ndarray:
    with Model(path) as model:
        return np.random.default_rng(seed).integers(0, model.info.n_vocab, count, np.int32)


def all_logits(path, device: str, ids: np.ndarray, pieces=None, **options) -> np.ndarray:
    """Logits after every token, fed in pieces of these lengths (None: all at once)."""
    with Model(path, device=device) as model:
        return in_pieces(model, ids, pieces, **options)


def in_pieces(model: Model, ids: np.ndarray, pieces=None, **options) -> np.ndarray:
    """The same of an open model."""
    with model.session(context=len(ids), **options) as session:
        if pieces is None:
            return session.eval(ids, all_logits=True)
        parts, first = [], 0
        while first < len(ids):
            length = pieces[len(parts) % len(pieces)]
            parts.append(session.eval(ids[first : first + length], all_logits=True))
            first += length
        return np.concatenate(parts)


def mean_kl(expected: np.ndarray, found: np.ndarray) -> float:
    def log_softmax(logits):
        logits = logits.astype(np.float64)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    assert np.isfinite(found).all()
    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def check(path, limit: float, count: int = 150, **options) -> None:
    """Prefill in one go, and token by token: both as the CPU has it."""
    ids = tokens(path, count)
    cpu_options = {key: value for key, value in options.items() if key != "cache_type"}
    expected = all_logits(path, "cpu", ids, cache_type="f32", **cpu_options)
    assert mean_kl(expected, all_logits(path, "cuda", ids, **options)) < limit
    assert mean_kl(expected, all_logits(path, "cuda", ids, pieces=(1,), **options)) < limit
