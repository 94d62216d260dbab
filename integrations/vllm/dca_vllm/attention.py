"""Dual Chunk Attention in plain PyTorch: each range of keys apart, merged by log-sum-exp (Algorithm 1).

Knows nothing of vLLM but its pages. The CPU backend runs on it.
"""

from __future__ import annotations

import torch

from dca_vllm.positions import key_ranges, query_blocks
from dca_vllm.rotation import Rotation, rotate_queries
from dca_vllm.scheme import Scheme

QUERY_BLOCK = 256  # rows of the score matrix held at once: bounds memory to rows · heads · length values


def paged_attention(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_starts: torch.Tensor,
    lengths: torch.Tensor,
    scheme: Scheme,
    rotation: Rotation,
    scale: float,
    output: torch.Tensor,
) -> None:
    """Attention of a batch of sequences, written to `output`, which has the shape of `query`.

    `query` (tokens, heads, head_size) is un-rotated. `kv_cache` (blocks, kv_heads, block_size, 2·head_size)
    holds keys rotated at P_k and then values. Sequence b owns the rows query_starts[b] … query_starts[b + 1]
    - 1 of `query`, the last of its lengths[b] tokens, and the blocks block_table[b].
    """
    starts, ends = query_starts.tolist(), lengths.tolist()
    head_size = query.shape[-1]
    for sequence, length in enumerate(ends):
        rows = slice(starts[sequence], starts[sequence + 1])
        if rows.start == rows.stop:
            continue
        pages = block_table[sequence, : -(-length // kv_cache.shape[2])]
        kept = kv_cache[pages].transpose(0, 1).flatten(1, 2)[:, :length]  # (kv_heads, length, 2·head_size)
        keys, values = kept.split(head_size, dim=-1)
        output[rows] = attention(query[rows], keys, values, scheme, rotation, scale)


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scheme: Scheme,
    rotation: Rotation,
    scale: float,
) -> torch.Tensor:
    """Attention of the last n of m tokens of one sequence: (n, heads, head_size), in query's dtype.

    `query` (n, heads, head_size) is un-rotated; `keys` (kv_heads, m, head_size) are rotated at P_k.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys, values = keys.to(dtype), values.to(dtype)
    n, m = query.shape[0], keys.shape[1]
    output = torch.empty_like(query)
    for first, last in query_blocks(m - n, m, scheme, QUERY_BLOCK):
        rows = slice(first - (m - n), last - (m - n))
        indices = torch.arange(first, last, device=query.device)
        queries = rotate_queries(query[rows].to(dtype), indices, scheme, rotation)
        merged: tuple[torch.Tensor, torch.Tensor] | None = None
        for kind, start, stop in key_ranges(first, last, scheme):
            seen = slice(start, stop)
            later = torch.arange(start, stop, device=query.device) > indices[:, None]
            part = _partial(queries[kind] * scale, keys[:, seen], values[:, seen], later)
            merged = part if merged is None else _merge(*merged, *part)
        assert merged is not None  # a query always sees itself
        output[rows] = merged[0].transpose(0, 1).to(query.dtype)
    return output


def _partial(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over one range: output (heads, n, head_size) and log-sum-exp of the logits (heads, n)."""
    n, heads, head_size = q.shape
    grouped = q.transpose(0, 1).reshape(
        k.shape[0], -1, head_size
    )  # the heads of a key head follow each other
    logits = (grouped @ k.transpose(1, 2)).view(heads, n, -1).masked_fill(hidden, float("-inf"))
    total = logits.logsumexp(-1)
    weights = torch.exp(logits - total[..., None]).view(k.shape[0], -1, logits.shape[-1])
    return (weights @ v).view(heads, n, -1), total


def _merge(
    output: torch.Tensor, total: torch.Tensor, other: torch.Tensor, other_total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over two ranges: each output weighs as much as its share of the normaliser."""
    both = torch.logaddexp(total, other_total)
    mine, others = ((each - both).exp()[..., None] for each in (total, other_total))
    return output * mine + other * others, both
