"""Positions and ranges of Dual Chunk Attention (An et al., eq. 2, 5 and 7), on tensors of indices."""

from __future__ import annotations

from typing import NamedTuple

import torch

from dca_vllm.scheme import Scheme


class QueryPositions(NamedTuple):
    """Where a query stands towards the three kinds of keys; tensors of one shape."""

    inter: torch.Tensor
    """towards keys of all earlier chunks: c - 1 (eq. 5)"""
    successive: torch.Tensor
    """towards keys of the chunk before: min(s + r, c - 1) for r < w, else c - 1 (eq. 7)"""
    intra: torch.Tensor
    """towards keys of its own chunk: r = index mod s (eq. 2), which is also where its key stands"""


def query_positions(indices: torch.Tensor, scheme: Scheme) -> QueryPositions:
    """Of the queries at absolute `indices`."""
    intra = indices % scheme.chunk_size
    last = torch.full_like(indices, scheme.pretraining_length - 1)
    successive = torch.where(intra < scheme.local_window, intra + scheme.chunk_size, last)
    return QueryPositions(last, torch.minimum(successive, last), intra)


def logit_factors(indices: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """What each query's logits are multiplied by: m(index + 1)², float32."""
    if scheme.logit_scale == 0:
        return torch.ones_like(indices, dtype=torch.float32)
    growth = scheme.logit_scale * torch.log((indices + 1).double() / scheme.logit_scale_length) + 1
    return growth.clamp(min=1).square().float()


class KeyRange(NamedTuple):
    """Keys first … last - 1 are seen by queries at positions of this kind (a field of QueryPositions)."""

    kind: int
    first: int
    last: int


def key_ranges(first: int, last: int, scheme: Scheme) -> list[KeyRange]:
    """What the queries first … last - 1 of one chunk see, without empty ranges; only the last is causal."""
    own = first // scheme.chunk_size * scheme.chunk_size
    before = max(own - scheme.chunk_size, 0)
    ranges = [KeyRange(0, 0, before), KeyRange(1, before, own), KeyRange(2, own, last)]
    return [each for each in ranges if each.first < each.last]


def query_blocks(first: int, last: int, scheme: Scheme, longest: int) -> list[tuple[int, int]]:
    """The queries first … last - 1 in blocks of one chunk each, of at most `longest` rows."""
    blocks = []
    while first < last:
        border = (first // scheme.chunk_size + 1) * scheme.chunk_size
        stop = min(last, border, first + longest)
        blocks.append((first, stop))
        first = stop
    return blocks
