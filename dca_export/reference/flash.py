"""Dual Chunk Attention by the published algorithm (Algorithm 1): per chunk of queries one flash attention
for each kind of keys, merged by their log-sum-exps.

On CUDA in 16 bits the calls go to the package flash-attn where it is installed, otherwise to PyTorch's own
flash kernel. Everywhere else the same algorithm runs on plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch

from dca_export.reference.attention import (
    QUERY_BLOCK,
    Attention,
    Queries,
    check_attention,
    key_ranges,
    query_blocks,
)
from dca_export.reference.positions import logit_factors

if TYPE_CHECKING:
    from dca_export.scheme import Scheme

Partial = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool, float], tuple[torch.Tensor, torch.Tensor]]
"""(q, k, v, causal, softmax_scale) → output (heads, n, d) and log-sum-exp of the logits (heads, n).
Causal calls have as many keys as queries."""


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
    heads, n, head_dim = queries.intra.shape
    m = keys.shape[1]
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    if attention == "plain":
        scheme = None
    factors = logit_factors(torch.arange(m - n, m, device=keys.device), scheme)
    if factors is not None:
        queries = Queries(*((q * factors[:, None]).to(q.dtype) for q in queries))
    partial = _partial_for(keys)

    output = torch.empty(heads, n, values.shape[-1], dtype=queries.intra.dtype, device=keys.device)
    for start, stop in query_blocks(m - n, m, scheme, None):
        rows = slice(start - (m - n), stop - (m - n))
        merged: tuple[torch.Tensor, torch.Tensor] | None = None
        for kind, first, last, causal in _calls(start, stop, scheme, attention):
            q = getattr(queries, kind)[:, rows]
            part = partial(q, keys[:, first:last], values[:, first:last], causal, scale)
            merged = part if merged is None else _merge(*merged, *part)
        assert merged is not None  # a query always sees itself
        output[:, rows] = merged[0].to(output.dtype)
    return output


def _calls(
    start: int, stop: int, scheme: Scheme | None, attention: Attention
) -> Iterator[tuple[str, int, int, bool]]:
    """The flash calls for the queries start … stop − 1 of one chunk: kind, first key, last key, causal.

    Where queries start inside a chunk, the chunk's earlier keys are seen whole and only the square of the
    block itself is causal, so that no kernel's way of aligning a causal mask matters.
    """
    for each in key_ranges(start, stop, scheme, attention):
        if each.kind != "intra":
            yield each.kind, each.start, each.stop, False
            continue
        if each.start < start:
            yield "intra", each.start, start, False
        yield "intra", start, stop, True


def _merge(
    output: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the keys of both parts: each output weighs as much as its softmax normaliser."""
    total = torch.logaddexp(lse, other_lse)
    weight, other_weight = (torch.exp(each - total)[..., None] for each in (lse, other_lse))
    return output.to(total.dtype) * weight + other.to(total.dtype) * other_weight, total


def _partial_for(keys: torch.Tensor) -> Partial:
    """The kernel for tensors of this device, dtype and head size."""
    if keys.device.type == "cuda" and keys.dtype in (torch.float16, torch.bfloat16):
        if _flash_attn() is not None:
            return _flash_attn_partial
        if keys.shape[-1] % 8 == 0 and keys.shape[-1] <= 256:
            return _torch_flash_partial
    return _tensor_partial


@cache
def _flash_attn() -> Callable | None:
    """flash_attn_func of the package flash-attn, None where it is not installed."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


def _flash_attn_partial(q, k, v, causal, scale):
    """flash-attn takes (batch, length, heads, head_dim)."""
    flash_attn_func = _flash_attn()
    assert flash_attn_func is not None
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    output, lse, _ = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal, return_attn_probs=True)
    return output[0].transpose(0, 1), lse[0]


def _torch_flash_partial(q, k, v, causal, scale):
    groups = q.shape[0] // k.shape[0]
    k, v = (each.repeat_interleave(groups, dim=0) if groups > 1 else each for each in (k, v))
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q[None], k[None], v[None], 0.0, causal, False, scale=scale
    )
    return output[0], lse[0, :, : q.shape[1]]  # some builds round the length up


def _tensor_partial(q, k, v, causal, scale):
    heads, n, head_dim = q.shape
    kv_heads, m, _ = k.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    k, v = k.to(dtype), v.to(dtype)
    output = torch.empty(heads, n, v.shape[-1], dtype=dtype, device=q.device)
    lse = torch.empty(heads, n, dtype=dtype, device=q.device)
    for start in range(0, n, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n)
        grouped = q[:, start:stop].to(dtype).reshape(kv_heads, -1, head_dim)
        logits = (grouped @ k.transpose(1, 2) * scale).view(heads, stop - start, m)
        if causal:
            later = torch.ones(stop - start, m, dtype=torch.bool, device=q.device).triu(start + 1)
            logits = logits.masked_fill(later, float("-inf"))
        normaliser = logits.logsumexp(-1, keepdim=True)
        weights = torch.exp(logits - normaliser).view(kv_heads, -1, m)
        output[:, start:stop] = (weights @ v).view(heads, stop - start, -1)
        lse[:, start:stop] = normaliser[..., 0]
    return output, lse
