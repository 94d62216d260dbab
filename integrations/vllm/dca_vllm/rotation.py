"""Rotary embedding from a table of cosines and sines: what rotary.py takes over from vLLM's classes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from dca_vllm.positions import logit_factors, query_positions
from dca_vllm.scheme import Scheme


class Rotation(NamedTuple):
    """A model's rotary embedding at every position that a scheme uses."""

    table: torch.Tensor
    """float32 (positions, 2·pairs): cosines of all pairs, then sines, both with the model's factor (YaRN)"""
    halves: bool
    """pair p is (p, p + pairs) of a head's values; else (2p, 2p + 1)"""

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x (n, heads, head_size) at `positions` (n,); computed in float32 at least, in x's dtype."""
        return rotate(x, self.table[positions], self.halves)


def rotate(x: torch.Tensor, rows: torch.Tensor, halves: bool) -> torch.Tensor:
    """x (n, heads, head_size) turned by `rows` (n, 2·pairs) of a table; values beyond 2·pairs stay."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = rows.to(dtype)[:, None].chunk(2, dim=-1)
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs].to(dtype), x[..., 2 * pairs :]
    if halves:
        first, second = turned[..., :pairs], turned[..., pairs:]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    parts = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.cat(parts, -1) if halves else torch.stack(parts, -1).flatten(-2)
    return torch.cat((turned.to(x.dtype), rest), dim=-1)


def rotate_queries(
    q: torch.Tensor, indices: torch.Tensor, scheme: Scheme, rotation: Rotation
) -> torch.Tensor:
    """Queries (n, heads, head_size) of the tokens at absolute `indices` (n,), un-rotated → (3, n, heads,
    head_size): one rotation for each field of QueryPositions, multiplied by the logit factor."""
    factors = logit_factors(indices, scheme)[:, None, None]
    exact = q.to(torch.promote_types(q.dtype, torch.float32)) * factors
    return torch.stack(
        [rotation.rotate(exact, each).to(q.dtype) for each in query_positions(indices, scheme)]
    )


def table_of(first_row: torch.Tensor, positions: int) -> torch.Tensor:
    """The table of a rotary embedding whose row for position 1 is `first_row` (2·pairs,), float32.

    At position 1 the angles are the frequencies themselves, radians of at most 1, so they can be read off;
    cosines and sines of one pair share a factor. Angles are computed in float64.
    """
    cos, sin = first_row.double().chunk(2)
    frequencies, scale = torch.atan2(sin, cos), torch.hypot(cos, sin)
    at = torch.arange(positions, dtype=torch.float64, device=first_row.device)
    angles = at[:, None] * frequencies
    return torch.cat((angles.cos() * scale, angles.sin() * scale), dim=-1).float()
