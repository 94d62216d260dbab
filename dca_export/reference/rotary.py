"""Rotary position embedding: the function f of the paper's eq. 1, for any frequencies and both layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Layout = Literal["halves", "interleaved"]


@dataclass(frozen=True)
class Rotary:
    """A model's rotary embedding.

    The first 2·len(inverse_frequencies) of a head's values are rotated in pairs, the rest stay as they are
    (partial rotary). Pair p is (p, p + pairs) in the layout "halves" and (2p, 2p + 1) in "interleaved".
    Position t turns pair p by t·inverse_frequencies[p] radians. Angles are computed in float64.
    """

    inverse_frequencies: torch.Tensor
    """float64 (pairs,), radians per position"""
    layout: Layout = "halves"
    scale: float = 1.0
    """what rotated values are multiplied by (YaRN's and LongRoPE's attention factor); applies to q and k"""

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """f(x, positions): x is (..., n, head_dim), positions (n,); the result has x's shape and dtype."""
        return self._turn(x, positions, self.scale)

    def advance(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """f(q, t + steps) from x = f(q, t): rotations add up, and the scale is already in x."""
        return self._turn(x, steps, 1.0)

    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        """Radians, float64, shape of `positions` + (pairs,)."""
        return positions.double()[..., None] * self.inverse_frequencies.to(positions.device)

    def _turn(self, x: torch.Tensor, positions: torch.Tensor, scale: float) -> torch.Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = self.angles(positions)
        cos, sin = (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
        rotated_dim = 2 * cos.shape[-1]
        rotated, rest = x[..., :rotated_dim].to(dtype), x[..., rotated_dim:]
        if self.layout == "halves":
            first, second = rotated.chunk(2, dim=-1)
        else:
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        pair = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.cat(pair, -1) if self.layout == "halves" else torch.stack(pair, -1).flatten(-2)
        return torch.cat((joined.to(x.dtype), rest), dim=-1)
