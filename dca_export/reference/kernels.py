"""Attention of some queries on some keys, with its log-sum-exp; and the gradients, given those of a whole of
which it is a part.

On CUDA in 16 bits the calls go to the package flash-attn where it is installed, otherwise to PyTorch's own
flash kernel. Everywhere else the same runs on plain tensors, a block of queries at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from dca_export.reference.attention import QUERY_BLOCK


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (heads, n, d) and log-sum-exp of the logits (heads, n).

    q (heads, n, d), k and v (kv_heads, m, d). Causal calls have as many keys as queries.
    """
    if _has_flash(q, v):
        if _flash_attn() is not None:
            return _flash_attn_forward(q, k, v, causal, scale)
        return _torch_flash_forward(q, k, v, causal, scale)
    return _tensor_forward(q, k, v, causal, scale)


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    gradient: torch.Tensor,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v. output, lse and gradient are those of the whole attention of these queries, of
    which k and v may be a part of the keys."""
    if _has_flash(q, v):
        return _torch_flash_backward(q, k, v, output, lse, gradient, causal, scale)
    return _tensor_backward(q, k, v, output, lse, gradient, causal, scale)


def _has_flash(q: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether the flash kernels take tensors of this device, dtype and head size."""
    return (
        q.device.type == "cuda"
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] == v.shape[-1] <= 256
        and q.shape[-1] % 8 == 0
    )


@cache
def _flash_attn() -> Callable | None:
    """flash_attn_func of the package flash-attn, None where it is not installed."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


def _flash_attn_forward(q, k, v, causal, scale):
    """flash-attn takes (batch, length, heads, head_dim)."""
    flash_attn_func = _flash_attn()
    assert flash_attn_func is not None
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    output, lse, _ = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal, return_attn_probs=True)
    return output[0].transpose(0, 1), lse[0]


def _torch_flash_forward(q, k, v, causal, scale):
    k, v = (_repeated(each, q) for each in (k, v))
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q[None], k[None], v[None], 0.0, causal, False, scale=scale
    )
    return output[0], lse[0, :, : q.shape[1]]  # some builds round the length up


def _torch_flash_backward(q, k, v, output, lse, gradient, causal, scale):
    """The kernel recomputes the softmax from the log-sum-exp it is given: here, the whole attention's."""
    kv_heads, m, _ = k.shape
    random_state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # no dropout: not read
    of_q, of_k, of_v = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        gradient.to(q.dtype)[None].contiguous(),
        q[None].contiguous(),
        _repeated(k, q)[None].contiguous(),
        _repeated(v, q)[None].contiguous(),
        output[None].contiguous(),
        lse.float()[None].contiguous(),
        None,
        None,
        q.shape[1],
        m,
        0.0,
        causal,
        random_state,
        torch.zeros((), dtype=torch.uint64, device=q.device),
        scale=scale,
    )
    of_k, of_v = (each[0].float().view(kv_heads, -1, m, each.shape[-1]).sum(1) for each in (of_k, of_v))
    return of_q[0], of_k, of_v


def _repeated(each: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """A key head for each query head."""
    groups = q.shape[0] // each.shape[0]
    return each.repeat_interleave(groups, dim=0) if groups > 1 else each


def _tensor_forward(q, k, v, causal, scale):
    heads, n, _ = q.shape
    kv_heads, m, _ = k.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    k, v = k.to(dtype), v.to(dtype)
    output = torch.empty(heads, n, v.shape[-1], dtype=dtype, device=q.device)
    lse = torch.empty(heads, n, dtype=dtype, device=q.device)
    for start, stop in _blocks(n):
        logits = _logits(q[:, start:stop].to(dtype), k, start, causal, scale)
        normaliser = logits.logsumexp(-1, keepdim=True)
        weights = torch.exp(logits - normaliser).view(kv_heads, -1, m)
        output[:, start:stop] = (weights @ v).view(heads, stop - start, -1)
        lse[:, start:stop] = normaliser[..., 0]
    return output, lse


def _tensor_backward(q, k, v, output, lse, gradient, causal, scale):
    heads, n, head_dim = q.shape
    kv_heads, m, _ = k.shape
    dtype = lse.dtype
    k, v = k.to(dtype), v.to(dtype)
    of_q = torch.empty(q.shape, dtype=dtype, device=q.device)
    of_k, of_v = torch.zeros_like(k), torch.zeros_like(v)
    for start, stop in _blocks(n):
        rows = slice(start, stop)
        block, grad = q[:, rows].to(dtype), gradient[:, rows].to(dtype)
        weights = torch.exp(_logits(block, k, start, causal, scale) - lse[:, rows, None])
        grouped = grad.reshape(kv_heads, -1, grad.shape[-1])
        of_v += weights.view(kv_heads, -1, m).transpose(1, 2) @ grouped
        of_weights = (grouped @ v.transpose(1, 2)).view(heads, -1, m)
        own = (grad * output[:, rows].to(dtype)).sum(-1, keepdim=True)
        of_logits = (weights * (of_weights - own) * scale).view(kv_heads, -1, m)
        of_q[:, rows] = (of_logits @ k).view(heads, -1, head_dim)
        of_k += of_logits.transpose(1, 2) @ block.reshape(kv_heads, -1, head_dim)
    return of_q, of_k, of_v


def _logits(block: torch.Tensor, k: torch.Tensor, start: int, causal: bool, scale: float) -> torch.Tensor:
    """Of the queries from row `start` on: (heads, rows, m)."""
    heads, rows, head_dim = block.shape
    kv_heads, m, _ = k.shape
    logits = (block.reshape(kv_heads, -1, head_dim) @ k.transpose(1, 2) * scale).view(heads, rows, m)
    if not causal:
        return logits
    later = torch.ones(rows, m, dtype=torch.bool, device=block.device).triu(start + 1)
    return logits.masked_fill(later, float("-inf"))


def _blocks(n: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, n)) for start in range(0, n, QUERY_BLOCK)]
