"""Dual Chunk Attention as the paper defines it: one softmax over the keys of all three kinds (eq. 8, 9).

Dense and exact, in any dtype up to float64. flash.py has the published algorithm of three calls and a merge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch

from dca_export.reference.positions import logit_factors, query_positions
from dca_export.reference.rotary import Rotary

if TYPE_CHECKING:
    from dca_export.scheme import Scheme

Attention = Literal["plain", "dca", "intra", "intra+inter"]
"""plain: ordinary causal attention. intra: only keys of the query's own chunk. intra+inter: every earlier
chunk at P_inter. dca: all three kinds."""

# Rows of the score matrix held at once; bounds memory to rows · heads · length values.
QUERY_BLOCK = 256


class Queries(NamedTuple):
    """The queries rotated for the three kinds of keys, each (heads, n, head_dim)."""

    intra: torch.Tensor
    successive: torch.Tensor
    inter: torch.Tensor


class KeyRange(NamedTuple):
    """Keys start … stop − 1 are seen by the queries of this kind."""

    kind: Literal["intra", "successive", "inter"]
    start: int
    stop: int


def check_attention(attention: str, scheme: Scheme | None) -> None:
    """Raises ValueError unless `attention` is one of the four and has the scheme it needs."""
    if attention not in get_args(Attention):
        raise ValueError(f"attention is {attention!r}, must be one of {', '.join(get_args(Attention))}")
    if attention != "plain" and scheme is None:
        raise ValueError(f"attention {attention!r} needs a scheme, got None")


def rotate_queries(
    q: torch.Tensor, indices: torch.Tensor, scheme: Scheme | None, attention: Attention, rotary: Rotary
) -> Queries:
    """Queries (heads, n, head_dim), un-rotated, of the tokens at absolute `indices` (n,)."""
    if attention == "plain" or scheme is None:
        plain = rotary.rotate(q, indices)
        return Queries(plain, plain, plain)
    return Queries(*(rotary.rotate(q, positions) for positions in query_positions(indices, scheme)))


def query_blocks(
    start: int, stop: int, scheme: Scheme | None, longest: int | None
) -> Iterator[tuple[int, int]]:
    """Cuts the queries start … stop − 1 into blocks that straddle no chunk border and have at most `longest`
    rows (None: no limit)."""
    while start < stop:
        end = stop if longest is None else min(stop, start + longest)
        if scheme is not None:
            end = min(end, (start // scheme.chunk_size + 1) * scheme.chunk_size)
        yield start, end
        start = end


def key_ranges(start: int, stop: int, scheme: Scheme | None, attention: Attention) -> list[KeyRange]:
    """What the queries start … stop − 1 of one chunk see, in the order of the keys, without empty ranges.

    The ranges follow each other without a gap; the last is intra and causal, the others are seen whole.
    """
    if attention == "plain" or scheme is None:
        return [KeyRange("intra", 0, stop)]
    own = start // scheme.chunk_size * scheme.chunk_size
    before = max(own - scheme.chunk_size, 0)
    ranges = [KeyRange("intra", own, stop)]
    if attention == "dca":
        ranges = [KeyRange("inter", 0, before), KeyRange("successive", before, own), *ranges]
    elif attention == "intra+inter":
        ranges = [KeyRange("inter", 0, own), *ranges]
    return [each for each in ranges if each.start < each.stop]


def eager_attention(
    queries: Queries,
    keys: torch.Tensor,
    values: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention = "dca",
    softmax_scale: float | None = None,
    *,
    window: int | None = None,
    cap: float | None = None,
    sinks: torch.Tensor | None = None,
    passed_over: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last n of m tokens.

    `queries` are rotated, (heads, n, head_dim) each. `keys` (kv_heads, m, head_dim) are rotated at P_k and
    `values` are (kv_heads, m, value_dim); heads is a multiple of kv_heads. `softmax_scale` is 1/√head_dim
    unless given. A query sees the last `window` tokens, its own included (None: all), but for keys that are
    `passed_over` (heads, n, m). Scaled logits become cap·tanh(logits / cap). `sinks` (heads,) are logits of
    one more key each, whose value is zero. Computes in the queries' dtype, float32 at least. Returns
    (heads, n, value_dim) in the queries' dtype.
    """
    check_attention(attention, scheme)
    heads, n, head_dim = queries.intra.shape
    kv_heads, m, _ = keys.shape
    dtype = torch.promote_types(queries.intra.dtype, torch.float32)
    keys, values = keys.to(dtype), values.to(dtype)
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    if attention == "plain":
        scheme = None
    indices = torch.arange(m, device=keys.device)

    output = torch.empty(heads, n, values.shape[-1], dtype=queries.intra.dtype, device=keys.device)
    for start, stop in query_blocks(m - n, m, scheme, QUERY_BLOCK):
        rows = slice(start - (m - n), stop - (m - n))
        ranges = key_ranges(start, stop, scheme, attention)
        logits = torch.cat(
            [
                products(getattr(queries, each.kind)[:, rows].to(dtype), keys[:, each.start : each.stop])
                for each in ranges
            ],
            dim=-1,
        )
        logits *= scale
        factors = logit_factors(indices[start:stop], scheme)
        if factors is not None:
            logits *= factors.to(dtype)[:, None]
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        seen = slice(ranges[0].start, stop)
        distances = indices[start:stop][:, None] - indices[seen][None, :]
        hidden = distances < 0 if window is None else (distances < 0) | (distances >= window)
        logits = logits.masked_fill(hidden, float("-inf"))
        if passed_over is not None:
            logits = logits.masked_fill(passed_over[:, rows, seen], float("-inf"))
        if sinks is not None:
            logits = torch.cat((logits, sinks.to(dtype)[:, None, None].expand(-1, stop - start, 1)), dim=-1)
        weights = logits.softmax(dim=-1)[..., : hidden.shape[-1]]
        block = weights.reshape(kv_heads, -1, weights.shape[-1]) @ values[:, seen]
        output[:, rows] = block.view(heads, stop - start, -1).to(output.dtype)
    return output


def products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """q·k of every query with every key of its key head: (heads, n, d), (kv_heads, m, d) → (heads, n, m)."""
    grouped = q.reshape(k.shape[0], -1, q.shape[-1]) @ k.transpose(-1, -2)
    return grouped.view(q.shape[0], q.shape[1], -1)
