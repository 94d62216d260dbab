"""What Dual Chunk Attention does not go with in vLLM: refused in one line, or switched off and said so."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

logger = init_logger("vllm.dca")

CUDA_BACKEND = "dca_vllm.backend_cuda.DcaCudaBackend"
CPU_BACKEND = "dca_vllm.backend_cpu.DcaCpuBackend"

# Classes whose every layer rotates queries and keys with one rotary embedding from get_rope and attends to
# all tokens before. Others may leave layers without rotation or use a second embedding.
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)

# Passes of vLLM's compiler that would rotate queries and keys in a kernel of their own.
ROTARY_FUSIONS = ("enable_qk_norm_rope_fusion", "fuse_rope_kvcache", "fuse_qk_norm_rope_kvcache")


def check_engine(config: VllmConfig) -> None:
    """Raises ValueError where the engine's settings do not go with a scheme; switches rotary fusions off."""
    architecture = config.model_config.architecture
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"dca-vllm: the model has a scheme, but {architecture} is not one of {', '.join(ARCHITECTURES)}"
        )
    if config.speculative_config is not None:
        raise ValueError("dca-vllm: speculative decoding does not go with a scheme; leave it out")
    if not current_platform.is_cpu():
        _check_backend(config)
    passes = config.compilation_config.pass_config
    for name in ROTARY_FUSIONS:
        if getattr(passes, name, None):
            setattr(passes, name, False)
            logger.info("dca-vllm: %s is off: queries stay un-rotated until attention", name)


def _check_backend(config: VllmConfig) -> None:
    chosen = config.attention_config.backend
    if chosen is not AttentionBackendEnum.CUSTOM or chosen.get_path() != CUDA_BACKEND:
        name = "none" if chosen is None else chosen.name
        raise ValueError(
            "dca-vllm: the model has a scheme; start vLLM with --attention-backend CUSTOM "
            f"(found {name}), or take dual_chunk_attention_config out of config.json"
        )


def check_layer(
    alibi_slopes: Any,
    sliding_window: Any,
    logits_soft_cap: Any,
    attn_type: str,
    kv_sharing_target_layer_name: str | None,
    sinks: Any,
) -> None:
    """Raises ValueError for a layer whose attention is more than a causal softmax over all tokens before."""
    if sliding_window is not None:
        raise ValueError(
            f"dca-vllm: a sliding window of {sliding_window} tokens does not go with a scheme; to let every "
            "layer see every token, start vLLM with --hf-overrides '{\"sliding_window\": null}'"
        )
    others = {
        "ALiBi": alibi_slopes is not None,
        "soft-capped logits": bool(logits_soft_cap),
        f"attention of type {attn_type}": attn_type != "decoder",
        "keys shared between layers": kv_sharing_target_layer_name is not None,
        "attention sinks": sinks is not None,
    }
    for name, present in others.items():
        if present:
            raise ValueError(f"dca-vllm: the model has {name}, which Dual Chunk Attention does not define")
