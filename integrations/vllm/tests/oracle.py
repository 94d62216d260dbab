"""Dual Chunk Attention from its definition: eq. 8's distance of every pair, one dense softmax, float64.

Shares nothing with dca_vllm: no position is ever given to a query or a key, only distances to pairs.
"""

import math
import random
from dataclasses import dataclass

import torch


def distance(i: int, j: int, s: int, w: int, c: int) -> int:
    """Eq. 8: how far the query at i sees the key at j <= i."""
    r = i % s
    gap = i // s - j // s
    if gap == 0:
        query = r
    elif gap == 1 and r < w:
        query = min(s + r, c - 1)
    else:
        query = c - 1
    return query - j % s


def attention(q, k, v, scheme, frequencies, factor, scale, halves=True):
    """q (n, heads, d), k and v (m, kv_heads, d), nothing rotated; the queries are the last n of m tokens.

    A pair of values is a complex number, and turning by a distance a multiplication. float64 (n, heads, d).
    """
    q, k, v = q.double(), k.double(), v.double()
    n, heads, _ = q.shape
    m, kv_heads, _ = k.shape
    s, w, c = scheme.chunk_size, scheme.local_window, scheme.pretraining_length
    pairs = len(frequencies)
    apart = torch.tensor(
        [[distance(i, j, s, w, c) if j <= i else 0 for j in range(m)] for i in range(m - n, m)]
    ).double()
    turn = torch.polar(torch.ones(n, m, pairs, dtype=torch.float64), apart[..., None] * frequencies.double())
    k, v = (each.repeat_interleave(heads // kv_heads, dim=1) for each in (k, v))
    turned_q, turned_k = _pairs(q, pairs, halves), _pairs(k, pairs, halves).conj()
    rotated = torch.stack(
        [((turned_q[:, None, h] * turn) * turned_k[None, :, h]).sum(-1).real for h in range(heads)]
    )
    plain = torch.einsum("ihd,jhd->hij", q[..., 2 * pairs :], k[..., 2 * pairs :])
    logits = (rotated * factor**2 + plain) * scale
    if scheme.logit_scale:
        for row in range(n):
            tokens = m - n + row + 1
            growth = scheme.logit_scale * math.log(tokens / scheme.logit_scale_length) + 1
            logits[:, row] *= max(1.0, growth) ** 2
    hidden = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)
    return torch.einsum("hij,jhd->ihd", logits.masked_fill(hidden, -math.inf).softmax(-1), v)


def _pairs(x, pairs, halves):
    x = x[..., : 2 * pairs]
    if halves:
        return torch.complex(x[..., :pairs].contiguous(), x[..., pairs:].contiguous())
    return torch.complex(x[..., 0::2].contiguous(), x[..., 1::2].contiguous())


@dataclass
class Batch:
    """Sequences whose keys lie in pages in any order; every value that nobody wrote is NaN."""

    query: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    kv_cache: torch.Tensor
    block_table: torch.Tensor
    query_starts: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor
    """where the keys lie whose queries are here: page · block_size + offset"""


def random_batch(seed, sizes, heads, kv_heads, head_size, block_size, dtype, rotate_key):
    """`sizes`: (queries, length) of each sequence. `rotate_key(k, indices)` gives what the cache holds."""
    draw = torch.Generator().manual_seed(seed)
    shuffle = random.Random(seed)
    pages = [-(-length // block_size) for _, length in sizes]
    order = list(range(sum(pages) + 3))
    shuffle.shuffle(order)
    table = torch.full((len(sizes), max(pages) + 2), -1, dtype=torch.int32)
    cache = torch.full((len(order), kv_heads, block_size, 2 * head_size), math.nan, dtype=dtype)
    queries, keys, values, slots = [], [], [], []
    for number, (n, length) in enumerate(sizes):
        mine = torch.tensor([order.pop() for _ in range(pages[number])])
        table[number, : pages[number]] = mine
        q, k, v = (
            torch.randn(rows, h, head_size, generator=draw).to(dtype)
            for rows, h in ((n, heads), (length, kv_heads), (length, kv_heads))
        )
        at = torch.arange(length)
        place = mine[at // block_size]
        cache[place, :, at % block_size] = torch.cat((rotate_key(k, at), v), -1)
        slots.append((place * block_size + at % block_size)[length - n :])
        queries.append(q)
        keys.append(k)
        values.append(v)
    starts = torch.tensor([0, *(n for n, _ in sizes)]).cumsum(0).int()
    lengths = torch.tensor([length for _, length in sizes], dtype=torch.int32)
    return Batch(torch.cat(queries), keys, values, cache, table, starts, lengths, torch.cat(slots))


def expected(batch, scheme, frequencies, factor, scale, halves=True):
    """The oracle for every sequence of a batch, in the order of its queries."""
    rows = batch.query_starts.tolist()
    return torch.cat(
        [
            attention(batch.query[rows[i] : rows[i + 1]], k, v, scheme, frequencies, factor, scale, halves)
            for i, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True))
            if rows[i] < rows[i + 1]
        ]
    )
