"""Attention in several calls, each over some of the keys, merged by their log-sum-exps; with gradients.

Forward, every call gives an output and a log-sum-exp of its own, and a row's outputs are weighed by them.
Backward, no call's own output is needed: with P = exp(q·k − L) for the *merged* log-sum-exp L, a call's
share of the softmax is what the whole softmax gives its keys, so its gradients are those of ordinary
attention with the merged output and L in place of its own (flash kernels give no gradient of a log-sum-exp,
and none is needed). Memory is linear in length: nothing of a call is kept but its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from dca_export.reference import kernels

Mask = Literal["full", "causal", "anticausal"]


class Call(NamedTuple):
    """Some queries on some keys.

    full: every query sees every key. causal: as many keys as queries, query r sees keys up to r.
    anticausal: as many keys as queries, query r sees the keys from r on.
    """

    query: int  # which rotation of the queries
    rows: tuple[int, int]  # first query and the one behind the last
    key: int  # which rotation of the keys
    keys: tuple[int, int]
    mask: Mask


def merged_attention(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    values: torch.Tensor,
    calls: Sequence[Call],
    scale: float,
) -> torch.Tensor:
    """One softmax for each query over the keys of all its calls, of which it has at least one.

    queries: rotations of the same queries, (heads, n, head_dim) each. keys: rotations of the same keys,
    (kv_heads, m, head_dim). values: (kv_heads, m, value_dim). Returns (heads, n, value_dim) in the queries'
    dtype. Differentiable in all tensors.
    """
    return _Merged.apply(tuple(calls), scale, len(queries), values, *queries, *keys)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        calls: tuple[Call, ...],
        scale: float,
        rotations: int,
        values: torch.Tensor,
        *rotated: torch.Tensor,
    ) -> torch.Tensor:
        queries, keys = rotated[:rotations], rotated[rotations:]
        heads, n, _ = queries[0].shape
        dtype = torch.promote_types(queries[0].dtype, torch.float32)
        output = torch.zeros(heads, n, values.shape[-1], dtype=dtype, device=values.device)
        lse = torch.full((heads, n), float("-inf"), dtype=dtype, device=values.device)
        for call in calls:
            q, k, v = _inputs(call, queries, keys, values)
            part, part_lse = kernels.forward(q, k, v, call.mask != "full", scale)
            if call.mask == "anticausal":
                part, part_lse = part.flip(1), part_lse.flip(1)
            rows = slice(*call.rows)
            total = torch.logaddexp(lse[:, rows], part_lse)
            output[:, rows] *= torch.exp(lse[:, rows] - total)[..., None]
            output[:, rows] += part * torch.exp(part_lse - total)[..., None]
            lse[:, rows] = total
        result = output.to(queries[0].dtype)
        ctx.calls, ctx.scale, ctx.rotations = calls, scale, rotations
        ctx.save_for_backward(result, lse, values, *rotated)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        output, lse, values, *rotated = ctx.saved_tensors
        queries, keys = rotated[: ctx.rotations], rotated[ctx.rotations :]
        grad_values = torch.zeros_like(values, dtype=lse.dtype)
        grads: dict[tuple[str, int], torch.Tensor] = {}

        def grad(kind: str, index: int, like: torch.Tensor) -> torch.Tensor:
            if (kind, index) not in grads:
                grads[kind, index] = torch.zeros_like(like, dtype=lse.dtype)
            return grads[kind, index]

        for call in ctx.calls:
            rows, columns = slice(*call.rows), slice(*call.keys)
            of_rows = _turned(call, output[:, rows], lse[:, rows], gradient[:, rows])
            found = kernels.backward(
                *_inputs(call, queries, keys, values), *of_rows, call.mask != "full", ctx.scale
            )
            of_q, of_k, of_v = _turned(call, *found)
            grad("q", call.query, queries[call.query])[:, rows] += of_q
            grad("k", call.key, keys[call.key])[:, columns] += of_k
            grad_values[:, columns] += of_v

        def given(kind: str, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
            found = [grads.get((kind, index)) for index in range(len(tensors))]
            return [None if g is None else g.to(t.dtype) for g, t in zip(found, tensors, strict=True)]

        return None, None, None, grad_values.to(values.dtype), *given("q", queries), *given("k", keys)


def _inputs(
    call: Call, queries: Sequence[torch.Tensor], keys: Sequence[torch.Tensor], values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a kernel is given. Anticausal becomes causal where rows and keys are read from behind."""
    first, last = call.keys
    found = (
        queries[call.query][:, slice(*call.rows)],
        keys[call.key][:, first:last],
        values[:, first:last],
    )
    return _turned(call, *found)


def _turned(
    call: Call, one: torch.Tensor, two: torch.Tensor, three: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows or keys of an anticausal call from behind."""
    if call.mask == "anticausal":
        return one.flip(1), two.flip(1), three.flip(1)
    return one, two, three
