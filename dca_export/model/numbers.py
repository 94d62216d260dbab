"""Numbers that some families' files state, from their config.json."""

from __future__ import annotations

import math

from dca_export.config import Config
from dca_export.model.rules import Dimensions, Number


def stated(key: str) -> Number:
    """The number under `key`; none where there is none."""

    def number(config: Config, dimensions: Dimensions) -> float | None:
        return config.positive(key) if key in config else None

    return number


def gemma_attention_scale(layers_by_width: int) -> Number:
    """1 / √query_pre_attn_scalar, where that is not what engines assume: 1 / √head_dim, in the model of so
    many layers 1 / √(width / heads)."""

    def number(config: Config, dimensions: Dimensions) -> float | None:
        scalar = config.positive("query_pre_attn_scalar")
        by_width = dimensions.layers == layers_by_width
        assumed = dimensions.width // dimensions.heads if by_width else dimensions.head_dim
        return None if scalar == assumed else 1 / math.sqrt(scalar)

    return number


def minicpm_residual_scale(config: Config, dimensions: Dimensions) -> float:
    return config.positive("scale_depth") / math.sqrt(dimensions.layers)


def minicpm_logit_scale(config: Config, dimensions: Dimensions) -> float:
    """What logits are divided by."""
    return dimensions.width / config.positive("dim_model_base")
