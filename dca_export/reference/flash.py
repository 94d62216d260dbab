"""Dual Chunk Attention by the published algorithm (Algorithm 1): per chunk of queries one flash attention
for each kind of keys, merged by their log-sum-exps. Differentiable; memory is linear in length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from dca_export.reference.attention import Attention, Queries, check_attention, key_ranges, query_blocks
from dca_export.reference.merged import Call, merged_attention
from dca_export.reference.positions import logit_factors

if TYPE_CHECKING:
    from dca_export.scheme import Scheme


def flash_attention(
    queries: Queries,
    keys: torch.Tensor,
    values: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention = "dca",
    softmax_scale: float | None = None,
) -> torch.Tensor:
    """The same function as eager_attention, of the same shapes, in 16 bits to the precision of its dtype."""
    check_attention(attention, scheme)
    _, n, head_dim = queries.intra.shape
    m = keys.shape[1]
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    if attention == "plain":
        scheme = None
    factors = logit_factors(torch.arange(m - n, m, device=keys.device), scheme)
    if factors is not None:
        queries = Queries(*((q * factors[:, None]).to(q.dtype) for q in queries))
    calls = [
        call
        for start, stop in query_blocks(m - n, m, scheme, None)
        for call in _calls(start, stop, m - n, scheme, attention)
    ]
    return merged_attention(queries, [keys], values, calls, scale)


def _calls(start: int, stop: int, before: int, scheme: Scheme | None, attention: Attention) -> Iterator[Call]:
    """The calls for the queries start … stop − 1 of one chunk; `before`: tokens before the first query.

    Where queries start inside a chunk, the chunk's earlier keys are seen whole and only the square of the
    block itself is causal, so that no kernel's way of aligning a causal mask matters.
    """
    rows = (start - before, stop - before)
    for each in key_ranges(start, stop, scheme, attention):
        kind = Queries._fields.index(each.kind)
        if each.kind != "intra":
            yield Call(kind, rows, 0, (each.start, each.stop), "full")
            continue
        if each.start < start:
            yield Call(kind, rows, 0, (each.start, start), "full")
        yield Call(kind, rows, 0, (start, stop), "causal")
