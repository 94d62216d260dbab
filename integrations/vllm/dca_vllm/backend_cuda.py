"""The backend for NVIDIA GPUs, chosen by --attention-backend CUSTOM; kernel.py does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)

from dca_vllm.kernel import paged_attention, store_keys_and_values
from dca_vllm.layer import DcaLayer

EIGHT_BIT = ("fp8", "fp8_e4m3")


class DcaCudaBackend(AttentionBackend):
    forward_includes_kv_cache_update: bool = False
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16", *EIGHT_BIT]

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[Any]:
        return DcaCudaLayer

    @staticmethod
    def get_builder_cls() -> type[Any]:
        return DcaMetadataBuilder

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return head_size % 8 == 0 and head_size <= 256


@dataclass
class DcaMetadata(AttentionMetadata):
    """One step's batch; tensors are vLLM's own, which a recorded graph reads again at every replay."""

    tokens: int
    longest_query: int
    query_starts: torch.Tensor
    """int32 (sequences + 1,)"""
    lengths: torch.Tensor
    """int32 (sequences,)"""
    block_table: torch.Tensor
    """int32 (sequences, blocks)"""


class DcaMetadataBuilder(AttentionMetadataBuilder[DcaMetadata]):
    # One query a sequence: grids depend on shapes alone, and the graph of a batch size has one shape.
    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> DcaMetadata:
        return DcaMetadata(
            common_attn_metadata.num_actual_tokens,
            common_attn_metadata.max_query_len,
            common_attn_metadata.query_start_loc,
            common_attn_metadata.seq_lens,
            common_attn_metadata.block_table_tensor,
        )

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> DcaMetadata:
        metadata = self.build(0, common_attn_metadata)
        metadata.lengths.fill_(1)  # recording runs the kernels: not over the longest context there is
        return metadata


class DcaCudaLayer(DcaLayer):
    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """See kernel.store_keys_and_values."""
        cache, *scales = self._cache_and_scales(layer, kv_cache)
        store_keys_and_values(key, value, cache, slot_mapping, *scales)

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: DcaMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query and output: (tokens, heads, head_size); see kernel.paged_attention."""
        if attn_metadata is None:  # vLLM measures memory
            return output.fill_(0)
        cache, *scales = self._cache_and_scales(layer, kv_cache)
        paged_attention(
            query[: attn_metadata.tokens],
            cache,
            attn_metadata.block_table,
            attn_metadata.query_starts,
            attn_metadata.lengths,
            self.scheme,
            self.rotation,
            self.scale,
            output[: attn_metadata.tokens],
            attn_metadata.longest_query,
            *scales,
        )
        return output

    def _cache_and_scales(self, layer: Any, kv_cache: torch.Tensor) -> list[Any]:
        """The cache, and of 8-bit floats (bytes to vLLM) what keys and values were divided by."""
        if self.kv_cache_dtype not in EIGHT_BIT:
            return [kv_cache]
        return [kv_cache.view(torch.float8_e4m3fn), layer._k_scale, layer._v_scale]
