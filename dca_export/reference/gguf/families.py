"""What the name in general.architecture means, by the conventions of llama.cpp: the class of transformers,
how its modules' tensors are called, and what its configuration takes from the file beyond what all do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dca_export.errors import InputError
from dca_export.reference.gguf.keys import Keys

Values = dict[str, Any]


def _nothing(keys: Keys, values: Values) -> Values:
    return {}


@dataclass(frozen=True)
class Architecture:
    model_type: str
    """transformers' name"""
    interleaved: bool = False
    """The rows of q and k stand in the interleaved rotary order; transformers wants halves."""
    mixture: bool = False
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """modules of a layer whose tensors are called otherwise than weights.py says"""
    shifted_norms: bool = False
    """norms multiply by 1 + weight in transformers, by the file's numbers in the file"""
    values: Callable[[Keys, Values], Values] = _nothing
    """what the configuration has beyond `values`, or otherwise"""
    partial: bool = False
    """whether the class can rotate a part of a head"""
    epsilon: tuple[str, str] = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")


def _layer_types(keys: Keys, period: int) -> Values:
    """Every layer but each period's last has a window, if any has; a list in the file comes first."""
    window = keys.get("attention.sliding_window", 0)
    layers = keys.get("block_count")
    listed = keys.get("attention.sliding_window_pattern", period, (int, list))
    if isinstance(listed, int):
        listed = [(layer + 1) % listed != 0 for layer in range(layers)]
    if len(listed) != layers:
        raise InputError(f"{keys.file.path}: attention.sliding_window_pattern must have {layers} entries")
    kinds = ["sliding_attention" if window and each else "full_attention" for each in listed]
    return {"layer_types": kinds, "sliding_window": window or None}


def _two_ropes(keys: Keys, values: Values, base: float | None) -> Values:
    """The file's RoPE where layers see everything; in the others its base alone, or `base`."""
    whole = values["rope_parameters"]
    theta = keys.number("rope.freq_base_swa", base or whole["rope_theta"])
    windowed = {"rope_type": "default", "rope_theta": theta}
    return {"rope_parameters": {"full_attention": whole, "sliding_attention": windowed}}


def _gemma(layers_by_width: int) -> Callable[[Keys, Values], Values]:
    def values(keys: Keys, found: Values) -> Values:
        by_width = found["num_hidden_layers"] == layers_by_width
        scalar = found["hidden_size"] // found["num_attention_heads"] if by_width else found["head_dim"]
        scale = keys.number("attention.scale", scalar**-0.5)
        return {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": round(scale**-2),
            "attn_logit_softcapping": keys.number("attn_logit_softcapping", None),
            "final_logit_softcapping": keys.number("final_logit_softcapping", None),
        }

    return values


def _gemma2(keys: Keys, values: Values) -> Values:
    return _gemma(46)(keys, values) | _layer_types(keys, 2)


def _gemma3(keys: Keys, values: Values) -> Values:
    return _gemma(62)(keys, values) | _layer_types(keys, 6) | _two_ropes(keys, values, 10000.0)


def _gpt_oss(keys: Keys, values: Values) -> Values:
    rope = dict(values["rope_parameters"])
    if rope["rope_type"] == "yarn":
        rope["truncate"] = False
    return _layer_types(keys, 2) | {
        "num_local_experts": keys.get("expert_count"),
        "num_experts_per_tok": keys.get("expert_used_count"),
        "intermediate_size": keys.get("expert_feed_forward_length", values["intermediate_size"]),
        "rope_parameters": rope,
    }


def _smollm3(keys: Keys, values: Values) -> Values:
    return {"no_rope_layer_interval": 4}


def _olmo3(keys: Keys, values: Values) -> Values:
    return _layer_types(keys, 4) | _two_ropes(keys, values, None)


def _granite(keys: Keys, values: Values) -> Values:
    return {
        "attention_multiplier": keys.number("attention.scale", values["head_dim"] ** -0.5),
        "embedding_multiplier": keys.number("embedding_scale", 1.0),
        "residual_multiplier": keys.number("residual_scale", 1.0),
        "logits_scaling": keys.number("logit_scale", 1.0),
    }


def _granite_moe(keys: Keys, values: Values) -> Values:
    return _granite(keys, values) | {
        "num_local_experts": keys.get("expert_count"),
        "num_experts_per_tok": keys.get("expert_used_count"),
    }


def _cohere(keys: Keys, values: Values) -> Values:
    return {"logit_scale": keys.number("logit_scale"), "use_qk_norm": keys.has("blk.0.attn_q_norm.weight")}


def _cohere2(keys: Keys, values: Values) -> Values:
    return {"logit_scale": keys.number("logit_scale")} | _layer_types(keys, 4)


def _stablelm(keys: Keys, values: Values) -> Values:
    return {
        "use_qkv_bias": keys.has("blk.0.attn_q.bias"),
        "qk_layernorm": keys.has("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": keys.get("use_parallel_residual", False, bool),
    }


_LAYER_NORM = ("layer_norm_eps", "attention.layer_norm_epsilon")
_NORMS_AFTER = {
    "post_attention_layernorm": ("post_attention_norm",),
    "post_feedforward_layernorm": ("post_ffw_norm",),
}
_GEMMA = _NORMS_AFTER | {"pre_feedforward_layernorm": ("ffn_norm",)}

ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),  # Mistral too
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "phi3": Architecture("phi3", partial=True),
    "qwen2moe": Architecture("qwen2_moe", mixture=True),
    "qwen3moe": Architecture("qwen3_moe", mixture=True),
    "gemma2": Architecture("gemma2", modules=_GEMMA, shifted_norms=True, values=_gemma2),
    "gemma3": Architecture("gemma3_text", modules=_GEMMA, shifted_norms=True, values=_gemma3),
    "gpt-oss": Architecture(
        "gpt_oss",
        modules={
            "post_attention_layernorm": ("post_attention_norm",),
            "self_attn.sinks": ("attn_sinks",),
            "mlp.router": ("ffn_gate_inp",),
        },
        values=_gpt_oss,
    ),
    "smollm3": Architecture("smollm3", interleaved=True, values=_smollm3),
    "olmo2": Architecture("olmo2", modules=_NORMS_AFTER),
    "granite": Architecture("granite", interleaved=True, values=_granite),
    "granitemoe": Architecture(
        "granitemoe",
        interleaved=True,
        modules={
            "block_sparse_moe.router": ("ffn_gate_inp",),
            "block_sparse_moe.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
            "block_sparse_moe.experts.down_proj": ("ffn_down_exps",),
        },
        values=_granite_moe,
    ),
    "glm4": Architecture(
        "glm4",
        partial=True,
        modules={
            "post_self_attn_layernorm": ("post_attention_norm",),
            "post_mlp_layernorm": ("post_ffw_norm",),
        },
    ),
    "command-r": Architecture("cohere", values=_cohere, epsilon=_LAYER_NORM),
    "cohere2": Architecture("cohere2", values=_cohere2, epsilon=_LAYER_NORM),
    "stablelm": Architecture("stablelm", partial=True, values=_stablelm, epsilon=_LAYER_NORM),
    "internlm2": Architecture("llama", interleaved=True),
    # MiniCPM, which transformers does not have, is Granite with 1/√head_dim as its softmax's scale.
    "minicpm": Architecture("granite", interleaved=True, values=_granite),
}
MIXTRAL = Architecture("mixtral", interleaved=True, mixture=True)  # general.architecture is llama here too
OLMO3 = Architecture("olmo3", modules=_NORMS_AFTER, values=_olmo3)  # and olmo2 here


def find_architecture(keys: Keys) -> Architecture:
    """Raises InputError for one that is not in the table."""
    name = keys.file.architecture
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{keys.file.path}: general.architecture is {name}, the reference knows {known}")
    if name == "llama" and keys.get("expert_count", 0):
        return MIXTRAL
    if name == "olmo2" and keys.get("attention.sliding_window", 0):
        return OLMO3
    return ARCHITECTURES[name]
