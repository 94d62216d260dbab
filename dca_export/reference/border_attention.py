"""Attention with a border that moves with the query (borders.py), exact and by flash attention.

Both take queries and keys that are not rotated yet, since a key may need two rotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from dca_export.reference.attention import QUERY_BLOCK, products
from dca_export.reference.borders import Border
from dca_export.reference.merged import Call, merged_attention
from dca_export.reference.rotary import Rotary

_NEAR, _FAR = 0, 1  # which rotation


class Rotated(NamedTuple):
    """Queries (heads, n, head_dim) or keys (kv_heads, m, head_dim), each rotated twice."""

    near: torch.Tensor
    far: torch.Tensor


def rotate(
    q: torch.Tensor, keys: torch.Tensor, rule: Border, rotary: Rotary | None
) -> tuple[Rotated, Rotated]:
    """The queries of the last n of m tokens and the keys of all, un-rotated; rotary None: a layer without."""
    if rotary is None:
        return Rotated(q, q), Rotated(keys, keys)
    n, m = q.shape[1], keys.shape[1]
    indices = torch.arange(m, device=keys.device)
    last = indices[m - n :]
    return (
        Rotated(rotary.rotate(q, last), rotary.rotate(q, rule.far_query(last))),
        Rotated(rotary.rotate(keys, indices), rotary.rotate(keys, rule.far_key(indices))),
    )


def eager_border_attention(
    queries: Rotated, keys: Rotated, values: torch.Tensor, rule: Border, softmax_scale: float | None = None
) -> torch.Tensor:
    """One softmax over all keys that a query sees, dense and in any dtype up to float64.

    values: (kv_heads, m, value_dim). Returns (heads, n, value_dim) in the queries' dtype.
    """
    heads, n, head_dim = queries.near.shape
    m = values.shape[1]
    dtype = torch.promote_types(queries.near.dtype, torch.float32)
    values = values.to(dtype)
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    indices = torch.arange(m, device=values.device)
    output = torch.empty(heads, n, values.shape[-1], dtype=queries.near.dtype, device=values.device)
    for start in range(m - n, m, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, m)
        rows = slice(start - (m - n), stop - (m - n))
        far_end = max(0, stop - rule.window)
        if rule.sinks is not None:
            far_end = min(far_end, rule.sinks)
        near_start = max(0, start - rule.window + 1)
        distance = indices[start:stop, None] - indices[None, :stop]
        unseen = (
            (distance < rule.window)[:, :far_end],
            ((distance >= rule.window) | (distance < 0))[:, near_start:],
        )
        parts = [
            products(q[:, rows].to(dtype), k[:, first:last].to(dtype))
            .mul(scale)
            .masked_fill(hidden, -torch.inf)
            for q, k, (first, last), hidden in (
                (queries.far, keys.far, (0, far_end), unseen[0]),
                (queries.near, keys.near, (near_start, stop), unseen[1]),
            )
        ]
        weights = torch.cat(parts, dim=-1).softmax(dim=-1)
        seen = torch.cat((values[:, :far_end], values[:, near_start:stop]), dim=1)
        block = weights.view(seen.shape[0], -1, weights.shape[-1]) @ seen
        output[:, rows] = block.view(heads, stop - start, -1).to(output.dtype)
    return output


def flash_border_attention(
    queries: Rotated, keys: Rotated, values: torch.Tensor, rule: Border, softmax_scale: float | None = None
) -> torch.Tensor:
    """The same function by flash attention; differentiable, memory linear in length."""
    n, head_dim = queries.near.shape[1:]
    m = values.shape[1]
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    return merged_attention(queries, keys, values, list(_calls(m - n, m, rule)), scale)


def _calls(first: int, end: int, rule: Border) -> Iterator[Call]:
    """The calls for the queries first … end − 1.

    For a block of R queries from `a` on, the R keys from a − w + 0 on are a square that the border cuts along
    its diagonal: key c of it is far from query r where c ≤ r, and near where c > r. Both halves are what a
    causal kernel takes, the second one read from behind.

             far, whole      the square      near, whole    own
        keys 0 … a − w       a − w … b − w   b − w … a      a … b
    """
    window, sinks = rule.window, rule.sinks
    for a, b in _query_blocks(first, end, window, sinks):
        rows = (a - first, b - first)
        whole_far, square = max(0, a - window), (max(0, a - window), max(0, b - window))
        seen_far = whole_far if sinks is None else min(whole_far, sinks)
        if seen_far:
            yield Call(_FAR, rows, _FAR, (0, seen_far), "full")
        if square[1] > 0:
            if sinks is None or square[0] < sinks:
                yield Call(_FAR, rows, _FAR, square, "causal")
            if b - a > 1:
                yield Call(_NEAR, (rows[0], rows[1] - 1), _NEAR, (square[0] + 1, square[1]), "anticausal")
        if square[1] < a:
            yield Call(_NEAR, rows, _NEAR, (square[1], a), "full")
        yield Call(_NEAR, rows, _NEAR, (a, b), "causal")


def _query_blocks(first: int, end: int, window: int, sinks: int | None) -> Iterator[tuple[int, int]]:
    """Blocks of at most `window` queries, cut where the first key and the last sink become far."""
    cuts = [window] if sinks is None else [window, window + sinks]
    start = first
    while start < end:
        stop = min(start + window, end, *(cut for cut in cuts if cut > start))
        yield start, stop
        start = stop
