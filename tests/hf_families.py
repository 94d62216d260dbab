"""Small random models of transformers, of many families, with every feature on."""

from copy import deepcopy

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 64,
    "sliding_window": None,
    "initializer_range": 0.3,  # large enough that a wrong position changes the logits
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4],
    "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5],
    "factor": 4.0,
}
FAMILIES = {
    "llama": {},
    "llama, linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "llama, llama3": {"rope_parameters": LLAMA3},
    "llama, yarn": {"rope_parameters": YARN},
    "mistral": {},
    "qwen2": {},
    "qwen3, head_dim apart from width": {"head_dim": 32},
    "phi3": {},
    "phi3, partial rotary": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "phi3, longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
    "phi3, partial longrope and tied": {  # as Phi-4-mini
        "rope_parameters": LONGROPE
        | {
            "partial_rotary_factor": 0.5,
            "short_factor": LONGROPE["short_factor"][:4],
            "long_factor": LONGROPE["long_factor"][:4],
        },
        "original_max_position_embeddings": 16,
        "tie_word_embeddings": True,
    },
    "mixtral": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "stablelm, partial rotary": {},
    "glm, interleaved and partial": {"head_dim": 16},
    "cohere, interleaved": {},
    "smollm3, a layer without rotation": {"no_rope_layer_interval": 2},
    "granite, own softmax scale": {"attention_multiplier": 0.3},
}


WINDOWED = {"num_hidden_layers": 4, "sliding_window": 10}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
}
# New ones of issue 20, every feature on.
FAMILIES |= {
    "gemma2": WINDOWED
    | {
        "head_dim": 16,
        "attn_logit_softcapping": 2.0,  # low enough that scores meet it
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 9,
    },
    "gemma3_text": WINDOWED
    | {
        "head_dim": 16,
        "num_hidden_layers": 7,
        "rope_parameters": TWO_ROPES,
        "final_logit_softcapping": 4.0,
        "query_pre_attn_scalar": 25,
    },
    "gemma3_text, other layers": WINDOWED
    | {"head_dim": 16, "layer_types": ["full_attention", "sliding_attention"] * 2},
    "gpt_oss": WINDOWED | {"head_dim": 16, "rope_parameters": YARN | {"truncate": False}},
    "smollm3": {"num_hidden_layers": 5, "attention_bias": True, "mlp_bias": True},
    "olmo2": {"attention_bias": True},
    "olmo3": WINDOWED
    | {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": YARN,
        }
    },
    "granite": {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 1.7,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "granitemoe": {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 1.7,
    },
    "glm4": {
        "head_dim": 16,
        "attention_bias": True,
        "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "cohere": {"use_qk_norm": True, "logit_scale": 0.3, "attention_bias": True},
    "cohere2": WINDOWED | {"logit_scale": 0.3, "attention_bias": True},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True},
    "stablelm, parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    "internlm3": {"attention_bias": True, "mlp_bias": True},
    "ministral": {"head_dim": 16, "sliding_window": 64, "layer_types": ["full_attention"] * 2},
}
NEW_FAMILIES = [
    *("gemma2", "gemma3_text", "gemma3_text, other layers", "gpt_oss", "smollm3", "olmo2", "olmo3"),
    *("granite", "granitemoe", "glm4", "cohere", "cohere2", "stablelm", "stablelm, parallel", "internlm3"),
]


# What test_families exports and runs: case -> changes to its config.
MAGNITUDE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
EXPORTED = {
    "llama": {},
    "llama, biases and tied": {"attention_bias": True, "tie_word_embeddings": True},
    "llama, biases of the feed-forward": {"mlp_bias": True},
    "llama, head_dim": {"head_dim": 32},
    "llama, linear": {},
    "llama, llama3": {},
    "llama, yarn": {},
    "llama, yarn with its own magnitude": {"rope_parameters": MAGNITUDE | {"attention_factor": 1.5}},
    "llama, yarn with its own betas": {"rope_parameters": MAGNITUDE | {"beta_fast": 8.0, "beta_slow": 2.0}},
    "mistral": {},
    "mistral, head_dim": {"head_dim": 32},
    "ministral": {},
    "mixtral": {},
    "qwen2": {},
    "qwen3, head_dim apart from width": {},
    "phi3": {},
    "phi3, partial rotary": {},
    "phi3, longrope": {},
    "phi3, partial longrope and tied": {},
    "qwen2_moe": {"norm_topk_prob": False},
    "qwen2_moe, normalised": {"norm_topk_prob": True},
    "qwen3_moe": {"norm_topk_prob": True},
    "qwen3_moe, not normalised": {"norm_topk_prob": False},
}
EXPORTED |= {family: {} for family in NEW_FAMILIES}


def make(family: str, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    values = deepcopy({**SMALL, **FAMILIES.get(family, {}), **changes})  # a config changes what it is given
    config = AutoConfig.for_model(family.split(",")[0], **values)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    if "moe" in family or family in ("mixtral", "gpt_oss"):
        model.set_experts_implementation("eager")  # the other ones take no float64
    return model


def tokens(length: int):
    return torch.randint(3, 61, (1, length), generator=torch.Generator().manual_seed(1))


YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
}
LONGROPE_KEYS = {"rope.scaling.original_context_length": 16, "rope.scaling.factor": 4.0}


def llama3_factors() -> np.ndarray:
    """What Llama 3's scaling divides each frequency by, from its definition (wavelengths in tokens)."""
    result = []
    for p in range(8):
        wavelength = 2 * np.pi * 10000 ** (p / 8)
        low, high = 32 / LLAMA3["low_freq_factor"], 32 / LLAMA3["high_freq_factor"]
        if wavelength < high:
            result.append(1.0)
        elif wavelength > low:
            result.append(8.0)
        else:
            smooth = (32 / wavelength - 1) / (4 - 1)
            result.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(result, np.float32)


# case -> family, changes to its config, keys and tensors that a GGUF file has beside those of `write_gguf`
GGUF_CASES = {
    "llama": ("llama", {}, {}, {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, {}, {}),
    "llama, biases": ("llama", {"attention_bias": True}, {}, {}),
    "llama, biases of the feed-forward": ("llama", {"mlp_bias": True}, {}, {}),
    "llama, head_dim": ("llama", {"head_dim": 32}, {}, {}),
    "llama, linear": ("llama, linear", {}, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}),
    "llama, yarn": ("llama, yarn", {}, YARN_KEYS, {}),
    "llama, llama3": ("llama, llama3", {}, {}, {"rope_freqs.weight": llama3_factors()}),
    "qwen2": ("qwen2", {}, {}, {}),
    "qwen3": ("qwen3, head_dim apart from width", {}, {}, {}),
    "phi3": ("phi3", {}, {}, {}),
    "phi3, partial": ("phi3, partial rotary", {}, {"rope.dimension_count": 8}, {}),
    "phi3, longrope": (
        "phi3, longrope",
        {},
        {**LONGROPE_KEYS, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(4) / np.log(16)))},
        {
            "rope_factors_short.weight": np.array(LONGROPE["short_factor"], np.float32),
            "rope_factors_long.weight": np.array(LONGROPE["long_factor"], np.float32),
        },
    ),
    "mixtral": ("mixtral", {}, {}, {}),
    "qwen2_moe": ("qwen2_moe", {}, {}, {}),
    "qwen2_moe, weights normed": ("qwen2_moe", {"norm_topk_prob": True}, {"expert_weights_norm": True}, {}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}, {}, {}),
}


WINDOW = {"attention.sliding_window": 10}
GRANITE_KEYS = {
    "attention.scale": 0.3,
    "embedding_scale": 3.0,
    "residual_scale": 0.4,
    "logit_scale": 1.7,
}
GGUF_CASES |= {
    "gemma2": (
        "gemma2",
        {},
        WINDOW
        | {
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "attention.scale": 1 / 3,
        },
        {},
    ),
    "gemma3": (
        "gemma3_text",
        {},
        WINDOW
        | {
            "final_logit_softcapping": 4.0,
            "attention.scale": 0.2,
            "rope.freq_base_swa": 100.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 2.0,
        },
        {},
    ),
    "gemma3, other layers": (
        "gemma3_text, other layers",
        {"query_pre_attn_scalar": 16},
        WINDOW | {"attention.sliding_window_pattern": [False, True, False, True]},
        {},
    ),
    "gpt-oss": ("gpt_oss", {}, WINDOW | YARN_KEYS, {}),
    "smollm3": ("smollm3", {}, {}, {}),
    "olmo2": ("olmo2", {"attention_bias": False}, {}, {}),
    "olmo3": (
        "olmo3",
        {},
        WINDOW | YARN_KEYS | {"attention.sliding_window_pattern": [True, True, True, False]},
        {},
    ),
    "granite": ("granite", {}, GRANITE_KEYS, {}),
    "granitemoe": ("granitemoe", {}, GRANITE_KEYS, {}),
    "glm4": ("glm4", {}, {"rope.dimension_count": 8}, {}),
    "command-r": ("cohere", {}, {"logit_scale": 0.3}, {}),
    "command-r, no norms of q and k": ("cohere", {"use_qk_norm": False}, {"logit_scale": 0.3}, {}),
    "cohere2": ("cohere2", {}, WINDOW | {"logit_scale": 0.3}, {}),
    "stablelm": ("stablelm", {}, {"rope.dimension_count": 4}, {}),
    "stablelm, parallel": (
        "stablelm, parallel",
        {},
        {"rope.dimension_count": 4, "use_parallel_residual": True},
        {},
    ),
}


def make_case(case: str):
    """The model in float32, and the keys and tensors of `write_gguf` that it needs beside its own."""
    family, changes, keys, extra = GGUF_CASES[case]
    model = make(family, torch.float32, **changes)
    set_biases(model)
    return model, keys, extra


def set_biases(model) -> None:
    """Numbers for every bias; a new model has zeros there, which no test would miss."""
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            parameter.normal_(0, 0.3)
