"""What an attention layer of one rank is on any device: its heads, its scheme, its model's rotation."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backend import AttentionImpl, AttentionType

from dca_vllm.checks import check_layer
from dca_vllm.current import current_scheme
from dca_vllm.rotary import current_rotation


class DcaLayer(AttentionImpl):
    """Built by vLLM while it builds the model, after the layer's rotary embedding.

    Qwen's classes hand over `layer_idx` and `dual_chunk_attention_config`; the scheme comes from the model's
    config all the same, as for every other class. Raises ValueError for what does not go with a scheme.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
        layer_idx: int | None = None,
        dual_chunk_attention_config: dict[str, Any] | None = None,
    ) -> None:
        scheme = current_scheme()
        if scheme is None:
            raise ValueError(
                "dca-vllm: --attention-backend CUSTOM is Dual Chunk Attention, but neither config.json nor "
                "--additional-config states a scheme; leave the option out for plain attention"
            )
        check_layer(
            alibi_slopes, sliding_window, logits_soft_cap, attn_type, kv_sharing_target_layer_name, sinks
        )
        self.scheme = scheme
        self.rotation = current_rotation()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_size = head_size
        self.scale = scale
        self.kv_cache_dtype = kv_cache_dtype
