"""A tiny Llama in NumPy whose attention is told the distance of every pair of tokens: float64, dense."""

import numpy as np
from tiny import Tiny, tiny_weights


def dense_logits(tiny: Tiny, ids: np.ndarray, distances: np.ndarray, base: float | None = None) -> np.ndarray:
    """(n, vocab). distances (n, n): of query i to key j, negative where it does not see it. base: RoPE's."""
    weights = {name: values.astype(np.float64) for name, values in tiny_weights(tiny).items()}
    frequencies = (base or tiny.rope_base) ** (-np.arange(0, tiny.head_dim, 2) / tiny.head_dim)
    turn = np.exp(1j * distances[..., None] * frequencies)
    x = weights["token_embd.weight"][ids]
    for layer in range(tiny.layers):

        def of(name: str, layer: int = layer) -> np.ndarray:
            return weights[f"blk.{layer}.{name}.weight"]

        h = _norm(x) * of("attn_norm")
        q = _pairs(h @ of("attn_q").T, tiny.head_dim)
        k = np.repeat(_pairs(h @ of("attn_k").T, tiny.head_dim), tiny.heads // tiny.kv_heads, axis=1)
        v = (h @ of("attn_v").T).reshape(len(ids), tiny.kv_heads, tiny.head_dim)
        v = np.repeat(v, tiny.heads // tiny.kv_heads, axis=1)
        scores = np.einsum("ihp,jhp,ijp->hij", q, k.conj(), turn, optimize=True).real / tiny.head_dim**0.5
        scores = np.where(distances >= 0, scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", shares, v).reshape(len(ids), -1) @ of("attn_output").T
        h = _norm(x) * of("ffn_norm")
        gate = h @ of("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ of("ffn_up").T)) @ of("ffn_down").T
    output = weights["token_embd.weight" if tiny.tied else "output.weight"]
    return _norm(x) * weights["output_norm.weight"] @ output.T


def border_distances(name: str, first: int, second: int, n: int) -> np.ndarray:
    """The (n, n) matrix of "string" (S, W), "streaming" or "lm-infinite" (sinks, window): the papers'."""
    i, j = np.indices((n, n))
    m = i - j
    if name == "string":  # arXiv 2410.18745
        seen = np.where(m < first, m, m - first + second)
    elif name == "streaming":  # arXiv 2309.17453: places in a cache of the first and the last ones
        seen = np.where(m < second, m, np.where(j < first, np.minimum(i, first + second - 1) - j, -1))
    else:  # arXiv 2308.16137: distances end at the window
        seen = np.where(m < second, m, np.where(j < first, second, -1))
    return np.where(m >= 0, seen, -1)


def _norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def _pairs(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Neighbouring values as complex numbers: (n, heads, head_dim / 2)."""
    heads = x.reshape(len(x), -1, head_dim // 2, 2)
    return heads[..., 0] + 1j * heads[..., 1]
