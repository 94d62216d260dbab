"""What the papers of other methods say a query sees, one pair of tokens at a time; NumPy float64.

Each function gives the distance of query i to key j <= i in a sequence, or None where it does not see it.
"""

import numpy as np
from relative_oracle import relative_logit


def rerope(i, j, w):
    """The rectified matrix: 0 1 … w − 1 w w w …"""
    return min(i - j, w)


def self_extend(i, j, group, w):
    """Algorithm 1: the grouped query position is ⌊i / G⌋ + w − ⌊w / G⌋, the key's ⌊j / G⌋; they replace the
    ordinary ones where the distance is w or more."""
    if i - j < w:
        return i - j
    return (i // group + w - w // group) - j // group


def string(i, j, border, local):
    """Distances from S on lose S and gain W."""
    return i - j if i - j < border else i - j - border + local


def streaming(i, j, sinks, window):
    """The cache: the first tokens and the last ones, numbered by their places in it."""
    cache = [t for t in range(i + 1) if t < sinks or t > i - window]
    return cache.index(i) - cache.index(j) if j in cache else None


def lm_infinite(i, j, sinks, window):
    """The Λ-shaped mask, and the limit on distances."""
    if j >= sinks and i - j >= window:
        return None
    return min(i - j, window)


DISTANCES = {
    "rerope": rerope,
    "self-extend": self_extend,
    "string": string,
    "streaming": streaming,
    "lm-infinite": lm_infinite,
}


def border_attention(q, k, v, name, numbers, frequencies, layout="halves", scale=1.0) -> np.ndarray:
    """q (heads, n, d), k (kv_heads, m, d), v (kv_heads, m, dv), un-rotated, the queries being the last n of m
    tokens → (heads, n, dv)."""
    heads, n, d = q.shape
    kv_heads, m, _ = k.shape
    output = np.zeros((heads, n, v.shape[-1]))
    for head in range(heads):
        kv = head // (heads // kv_heads)
        for row in range(n):
            i = m - n + row
            seen = [(j, DISTANCES[name](i, j, *numbers)) for j in range(i + 1)]
            seen = [(j, t) for j, t in seen if t is not None]
            logits = np.array(
                [relative_logit(q[head, row], k[kv, j], t, frequencies, layout, scale) for j, t in seen]
            ) / np.sqrt(d)
            weights = np.exp(logits - logits.max())
            output[head, row] = weights @ v[kv, [j for j, _ in seen]] / weights.sum()
    return output
