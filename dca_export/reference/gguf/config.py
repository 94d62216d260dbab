"""From a GGUF file's metadata to a transformers configuration, by the conventions of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedConfig

from dca_export.errors import InputError
from dca_export.reference.gguf.families import Architecture
from dca_export.reference.gguf.keys import Keys


def build_config(
    keys: Keys, architecture: Architecture, vector: Callable[[str], np.ndarray]
) -> PreTrainedConfig:
    """The configuration of the model in the file; `vector(name)` is a tensor of frequencies or factors."""
    embedding = next((each for each in keys.file.tensors if each.name == "token_embd.weight"), None)
    if embedding is None:
        raise InputError(f"{keys.file.path}: tensor token_embd.weight is missing")
    heads = keys.uniform("attention.head_count")
    width = keys.get("embedding_length")
    head_dim = keys.get("attention.key_length", width // max(heads, 1))
    values: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "num_hidden_layers": keys.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.uniform("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": keys.uniform("feed_forward_length", 0),
        architecture.epsilon[0]: keys.number(architecture.epsilon[1], 1e-5),
        "max_position_embeddings": keys.get("context_length"),
        "rope_parameters": _rope(keys, architecture, head_dim, vector),
        "tie_word_embeddings": not keys.has("output.weight"),
        # Every layer sees every token, as in the runtime, but in families that say otherwise (families.py).
        "sliding_window": None,
        "use_sliding_window": False,
        "attention_bias": any(keys.has(f"blk.0.attn_{name}.bias") for name in ("q", "k", "v", "output")),
        "mlp_bias": any(keys.has(f"blk.0.ffn_{name}.bias") for name in ("gate", "up", "down")),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if architecture.mixture:
        values |= _mixture(keys, architecture)
    if architecture.model_type == "phi3":
        if head_dim * heads != width:
            raise InputError(f"{keys.file.path}: phi3 needs heads of embedding_length / head_count values")
        values["original_max_position_embeddings"] = keys.get(
            "rope.scaling.original_context_length", values["max_position_embeddings"]
        )
    values |= architecture.values(keys, values)
    try:
        return AutoConfig.for_model(architecture.model_type, **values)
    except Exception as error:  # transformers validates with exceptions of several kinds
        raise InputError(f"{keys.file.path}: transformers refuses its hyperparameters: {error}") from error


def _mixture(keys: Keys, architecture: Architecture) -> dict[str, Any]:
    experts, used = keys.get("expert_count"), keys.get("expert_used_count")
    if not 0 < used <= experts:
        raise InputError(f"{keys.file.path}: {used} of {experts} experts cannot be used")
    if keys.number("expert_weights_scale", 1.0) != 1 or keys.get("expert_gating_func", 1) != 1:
        raise InputError(f"{keys.file.path}: only unscaled softmax routing of experts is supported")
    width = keys.get("expert_feed_forward_length", keys.uniform("feed_forward_length", 0))
    values: dict[str, Any] = {"num_experts_per_tok": used, "output_router_logits": False}
    if architecture.model_type == "mixtral":
        return values | {"num_local_experts": experts, "intermediate_size": width}
    norm = keys.get("expert_weights_norm", architecture.model_type == "qwen3_moe", bool)
    values |= {"num_experts": experts, "moe_intermediate_size": width, "norm_topk_prob": norm}
    if architecture.model_type == "qwen2_moe":
        values["shared_expert_intermediate_size"] = keys.get("expert_shared_feed_forward_length")
    return values


def _rope(
    keys: Keys, architecture: Architecture, head_dim: int, vector: Callable[[str], np.ndarray]
) -> Mapping[str, Any]:
    rotary_dim = keys.get("rope.dimension_count", head_dim)
    kind = keys.get("rope.scaling.type", "none", str)
    if keys.has("rope_factors_long.weight"):
        kind = "longrope"
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": keys.number("rope.freq_base", 10000.0)}
    if rotary_dim != head_dim:
        if not architecture.partial:
            raise InputError(
                f"{keys.file.path}: rope.dimension_count is {rotary_dim}, transformers' "
                f"{architecture.model_type} rotates all {head_dim} values of a head"
            )
        rope["partial_rotary_factor"] = (rotary_dim + 0.5) / head_dim  # transformers rounds down
    factor = keys.number("rope.scaling.factor", 1.0)
    attention_factor = keys.number("rope.scaling.attn_factor", 1.0)
    original = keys.get("rope.scaling.original_context_length", keys.get("context_length"))
    if kind == "none":
        rope["rope_type"] = "default"
    elif kind == "linear":
        rope["factor"] = factor
    elif kind == "yarn":
        rope |= {
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": keys.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": keys.number("rope.scaling.yarn_beta_slow", 1.0),
            # YaRN's own factor (arXiv 2309.00071, eq. 22) and what the file adds to it.
            "attention_factor": attention_factor * (1 + 0.1 * float(np.log(factor))),
        }
    elif kind == "longrope":
        rope |= {
            "short_factor": vector("rope_factors_short.weight").tolist(),
            "long_factor": vector("rope_factors_long.weight").tolist(),
            "original_max_position_embeddings": original,
            "factor": factor,
            "attention_factor": attention_factor,
        }
    else:
        raise InputError(
            f"{keys.file.path}: rope.scaling.type is {kind}, must be none, linear, yarn or longrope"
        )
    return rope
