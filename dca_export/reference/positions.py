"""Position ids of Dual Chunk Attention (An et al., ICML 2024, eq. 2, 5 and 7) as PyTorch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from dca_export.scheme import Scheme


class QueryPositions(NamedTuple):
    """Position of each query towards the three kinds of keys; int64 tensors of one shape."""

    intra: torch.Tensor
    successive: torch.Tensor
    inter: torch.Tensor


def key_positions(indices: torch.Tensor, scheme: Scheme | None) -> torch.Tensor:
    """P_k of the tokens at absolute `indices` (eq. 2); plain attention (None) keeps the index."""
    return indices if scheme is None else indices % scheme.chunk_size


def query_positions(indices: torch.Tensor, scheme: Scheme) -> QueryPositions:
    """P_intra (eq. 2), P_succ (eq. 7) and P_inter (eq. 5) of the queries at absolute `indices`."""
    intra = indices % scheme.chunk_size
    last = torch.full_like(indices, scheme.pretraining_length - 1)
    successive = torch.where(intra < scheme.local_window, intra + scheme.chunk_size, last)
    return QueryPositions(intra, successive, last)


def logit_factors(indices: torch.Tensor, scheme: Scheme | None) -> torch.Tensor | None:
    """What the logits of each query are multiplied by, float64: m(n)² with n = index + 1 tokens in the
    sequence and m(n) = max(1, a·ln(n / n₀) + 1). None where the scheme has no logit scale."""
    if scheme is None or scheme.logit_scale == 0:
        return None
    tokens = (indices + 1).double()
    growth = scheme.logit_scale * torch.log(tokens / scheme.logit_scale_length) + 1
    return growth.clamp(min=1).square()
