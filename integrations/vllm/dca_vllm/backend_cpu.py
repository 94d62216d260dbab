"""The backend for CPUs: vLLM's own where the model has no scheme, else plain attention over its pages."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionMetadata

from dca_vllm.attention import paged_attention
from dca_vllm.current import current_scheme
from dca_vllm.layer import DcaLayer


class DcaCpuBackend(CPUAttentionBackend):
    """Registered for CPU_ATTN, which is what vLLM asks for on CPUs whatever the user says."""

    @staticmethod
    def get_impl_cls() -> type[Any]:
        return CPUAttentionBackend.get_impl_cls() if current_scheme() is None else DcaCpuLayer


class DcaCpuLayer(DcaLayer):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.kv_cache_dtype.startswith("fp8"):
            raise ValueError(f"dca-vllm: --kv-cache-dtype {self.kv_cache_dtype} is not for CPUs; use auto")

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """key and value (tokens, kv_heads, head_size) into kv_cache (blocks, kv_heads, block_size,
        2·head_size); a slot is block · block_size + offset, or -1 for a token that is not kept."""
        tokens = (slot_mapping >= 0).nonzero().flatten()
        slots, block_size = slot_mapping[tokens], kv_cache.shape[2]
        both = torch.cat((key[tokens], value[tokens]), dim=-1).to(kv_cache.dtype)
        kv_cache[slots // block_size, :, slots % block_size] = both

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query and output: (tokens, heads, head_size); see paged_attention."""
        if attn_metadata is None:  # vLLM measures memory
            return output.fill_(0)
        tokens = attn_metadata.num_actual_tokens
        paged_attention(
            query[:tokens],
            kv_cache,
            attn_metadata.block_table,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            self.scheme,
            self.rotation,
            self.scale,
            output[:tokens],
        )
        return output
