"""Dual Chunk Attention straight from the paper's eq. 8, in NumPy float64, one pair of tokens at a time.

Rotations never appear: a rotary product depends on the distance alone, so each logit is computed from the
un-rotated query and key and one entry of the matrix M.
"""

import math

import numpy as np


def distance(i: int, j: int, scheme, attention: str) -> int | None:
    """What query i sees as its distance to key j <= i; None where it does not see it."""
    if attention == "plain":
        return i - j
    s, w, c = scheme.chunk_size, scheme.local_window, scheme.pretraining_length
    gap = i // s - j // s
    if gap == 0:
        return i % s - j % s
    if attention == "intra":
        return None
    if gap == 1 and attention == "dca":
        return (s + i % s if i % s < w else c - 1) - j % s
    return c - 1 - j % s


def relative_logit(q, k, distance: int, frequencies, layout: str, scale: float) -> float:
    """f(q, t + distance)·f(k, t) for any t: each pair as a complex number, turned by distance·frequency."""
    pairs = len(frequencies)
    if layout == "halves":
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    else:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    turned = (q[first] + 1j * q[second]) * np.exp(1j * distance * frequencies)
    rotated = np.sum(turned * np.conj(k[first] + 1j * k[second])).real * scale**2
    return float(rotated + q[2 * pairs :] @ k[2 * pairs :])


def relative_attention(
    q, k, v, scheme, attention, frequencies, layout="halves", scale=1.0, window=None, cap=None, sinks=None
) -> np.ndarray:
    """q (heads, n, d), k (kv_heads, m, d), v (kv_heads, m, dv), un-rotated, the queries being the last n of m
    tokens → (heads, n, dv). window: a query sees so many tokens, itself included; cap: logits l become
    cap tanh(l / cap); sinks (heads,): a logit more in each head's softmax, which has no value."""
    heads, n, d = q.shape
    kv_heads, m, _ = k.shape
    output = np.zeros((heads, n, v.shape[-1]))
    for head in range(heads):
        kv = head // (heads // kv_heads)
        for row in range(n):
            i = m - n + row
            factor = 1 / math.sqrt(d)
            if attention != "plain" and scheme.logit_scale > 0:
                sharpened = scheme.logit_scale * math.log((i + 1) / scheme.logit_scale_length) + 1
                factor *= max(1.0, sharpened) ** 2
            seen = [(j, distance(i, j, scheme, attention)) for j in range(i + 1)]
            seen = [(j, t) for j, t in seen if t is not None and (window is None or i - j < window)]
            logits = np.array(
                [relative_logit(q[head, row], k[kv, j], t, frequencies, layout, scale) for j, t in seen]
            )
            logits = factor * logits
            if cap is not None:
                logits = cap * np.tanh(logits / cap)
            largest = max(logits.max(), -math.inf if sinks is None else sinks[head])
            weights = np.exp(logits - largest)
            others = 0.0 if sinks is None else math.exp(sinks[head] - largest)
            output[head, row] = weights @ v[kv, [j for j, _ in seen]] / (weights.sum() + others)
    return output
