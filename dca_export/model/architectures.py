"""The architectures that can be exported: one declarative entry each, and nothing else here.

An entry says what a Hugging Face class is called in GGUF, what its file states beyond what every file does,
and which tensor becomes which. Names on the GGUF side are llama.cpp's; shapes are words that Dimensions
explains.
"""

from __future__ import annotations

import re

from dca_export.checkpoint.derived import every_second, every_second_row, transposed, transposed_half
from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.numbers import (
    gemma_attention_scale,
    minicpm_logit_scale,
    minicpm_residual_scale,
    stated,
)
from dca_export.model.rules import (
    ATTENTION,
    FEED_FORWARD,
    FEED_FORWARD_BIAS,
    FUSED_ATTENTION,
    FUSED_FEED_FORWARD,
    GEMMA_NORMS,
    GEMMA_OUTPUT_NORM,
    GEMMA_QK_NORM,
    GLM4_NORMS,
    GRANITE_EXPERTS,
    INTERNLM2,
    NORM_BEFORE,
    NORMS,
    NORMS_AFTER,
    OUTPUT_BIAS,
    OUTPUT_NORM,
    OUTPUT_NORM_BIAS,
    OWN_HEAD_NORMS,
    QK_NORM,
    SHARED_EXPERT,
    STABLELM_NORMS,
    WIDE_QK_NORM,
    Architecture,
    block,
    experts,
    model,
    qkv_bias,
)

QWEN_EXPERTS = experts("mlp", "gate_proj", "up_proj", "down_proj", "expert_ff")

SILU = {"hidden_act": ("silu",)}
ALL_SPARSE = SILU | {"mlp_only_layers": ([],), "decoder_sparse_step": (1,)}
EXPERT_COUNT: dict[str, tuple[str, ...]] = {"experts": ("num_local_experts", "num_experts")}
EXPERT_SIZES = EXPERT_COUNT | {"expert_ff": ("moe_intermediate_size",)}
SHARED_SIZE: dict[str, tuple[str, ...]] = {"shared_ff": ("shared_expert_intermediate_size",)}

GELU = {"hidden_activation": ("gelu_pytorch_tanh",), "use_bidirectional_attention": (False, None)}
GEMMA_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
GEMMA_NUMBERS = {
    "attn_logit_softcapping": stated("attn_logit_softcapping"),
    "final_logit_softcapping": stated("final_logit_softcapping"),
}
GRANITE_NUMBERS = {
    "attention.scale": stated("attention_multiplier"),
    "embedding_scale": stated("embedding_multiplier"),
    "residual_scale": stated("residual_multiplier"),
    "logit_scale": stated("logits_scaling"),
}
GRANITE_DEFAULTS = dict.fromkeys(
    ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0
) | {"rms_norm_eps": 1e-6}
LAYER_NORM = ("attention.layer_norm_epsilon", "layer_norm_eps")
COHERE_DEFAULTS = {"tie_word_embeddings": True, "logit_scale": 0.0625, "layer_norm_eps": 1e-5}
MISTRAL = ("MistralForCausalLM", "MinistralForCausalLM", "Mistral3ForConditionalGeneration")
GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
GPT_OSS_EXPERTS = (
    block("ffn_gate_inp.weight", "mlp.router.weight", "experts", "width", f32=True),
    block("ffn_gate_inp.bias", "mlp.router.bias", "experts"),
    *(
        rule
        for half, name in enumerate(("gate", "up"))
        for rule in (
            block(
                f"ffn_{name}_exps.weight",
                "mlp.experts.gate_up_proj",
                *("experts", "expert_ff", "width"),
                derive=transposed_half(half),
                instead=("model.layers.{layer}.mlp.experts.gate_up_proj_rows", every_second_row(half)),
            ),
            block(
                f"ffn_{name}_exps.bias",
                "mlp.experts.gate_up_proj_bias",
                *("experts", "expert_ff"),
                derive=every_second(half),
                f32=True,
            ),
        )
    ),
    block(
        "ffn_down_exps.weight",
        "mlp.experts.down_proj",
        *("experts", "width", "expert_ff"),
        derive=transposed,
        instead=("model.layers.{layer}.mlp.experts.down_proj_rows", lambda tensor: tensor),
    ),
    block("ffn_down_exps.bias", "mlp.experts.down_proj_bias", "experts", "width", f32=True),
)

ARCHITECTURES = (
    Architecture(
        "llama",
        (
            *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MinistralForCausalLM"),
            "Mistral3ForConditionalGeneration",
        ),
        model(NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD, FEED_FORWARD_BIAS),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        class_defaults=dict.fromkeys(MISTRAL, {"sliding_window": 4096}),
    ),
    Architecture(
        "llama",
        ("MixtralForCausalLM",),
        model(NORMS, ATTENTION, experts("block_sparse_moe", gate="w1", up="w3", down="w2", ff="ff")),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        sizes=EXPERT_COUNT,
        defaults={"rope_theta": 1e6},
    ),
    Architecture(
        "qwen2",
        ("Qwen2ForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=False), FEED_FORWARD),
        required=SILU,
    ),
    Architecture(
        "qwen3",
        ("Qwen3ForCausalLM",),
        model(NORMS, ATTENTION, QK_NORM, qkv_bias(optional=True), FEED_FORWARD),
        required=SILU,
    ),
    Architecture(
        "phi3",
        ("Phi3ForCausalLM",),
        model(NORMS, FUSED_ATTENTION, FUSED_FEED_FORWARD),
        required=SILU,
        keys={
            "attention.sliding_window": "window",
            "rope.scaling.original_context_length": "original_context",
        },
        partly_rotated=True,
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=True), QWEN_EXPERTS, SHARED_EXPERT),
        required=ALL_SPARSE,
        keys={"expert_feed_forward_length": "expert_ff", "expert_shared_feed_forward_length": "shared_ff"},
        sizes=EXPERT_SIZES | SHARED_SIZE,
        norm_topk=False,
        norm_topk_unstated=False,
    ),
    Architecture(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        model(NORMS, ATTENTION, QK_NORM, qkv_bias(optional=True), QWEN_EXPERTS),
        required=ALL_SPARSE,
        keys={"expert_feed_forward_length": "expert_ff"},
        sizes=EXPERT_SIZES,
        norm_topk_unstated=False,
    ),
    Architecture(
        "gemma2",
        ("Gemma2ForCausalLM",),
        model(GEMMA_NORMS, ATTENTION, FEED_FORWARD, output_norm=GEMMA_OUTPUT_NORM),
        required=GELU,
        keys={"attention.sliding_window": "window"},
        numbers=GEMMA_NUMBERS | {"attention.scale": gemma_attention_scale(46)},
        defaults=GEMMA_DEFAULTS
        | {
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    Architecture(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        model(GEMMA_NORMS, GEMMA_QK_NORM, ATTENTION, FEED_FORWARD, output_norm=GEMMA_OUTPUT_NORM),
        required=GELU,
        keys={"attention.sliding_window": "window"},
        numbers=GEMMA_NUMBERS | {"attention.scale": gemma_attention_scale(62)},
        defaults=GEMMA_DEFAULTS
        | {
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
    ),
    Architecture(
        "gpt-oss",
        ("GptOssForCausalLM",),
        model(
            NORM_BEFORE,
            (block("post_attention_norm.weight", "post_attention_layernorm.weight", "width"),),
            ATTENTION,
            qkv_bias(optional=True),
            OUTPUT_BIAS,
            (block("attn_sinks.weight", "self_attn.sinks", "heads"),),
            GPT_OSS_EXPERTS,
        ),
        required=SILU | {"swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
        keys={"attention.sliding_window": "window", "expert_feed_forward_length": "expert_ff"},
        sizes=EXPERT_COUNT | {"expert_ff": ("intermediate_size",)},
        defaults={
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "sliding_window": 128,
            "rope_parameters": GPT_OSS_ROPE,
        },
    ),
    Architecture(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD, FEED_FORWARD_BIAS),
        interleaved=True,
        required=SILU | {"use_sliding_window": (False,)},
        unrotated_period=4,
        keys={"vocab_size": "vocab"},
        defaults={"rms_norm_eps": 1e-6, "rope_theta": 2e6, "tie_word_embeddings": True},
    ),
    Architecture(
        "olmo2",
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        model(NORMS_AFTER, ATTENTION, WIDE_QK_NORM, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD),
        required=SILU,
        keys={"attention.sliding_window": "window"},
        defaults={"rms_norm_eps": 1e-5},
        class_defaults={"Olmo3ForCausalLM": {"sliding_window": 4096, "rope_theta": 5e5}},
    ),
    Architecture(
        "granite",
        ("GraniteForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD, FEED_FORWARD_BIAS),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        numbers=GRANITE_NUMBERS,
        defaults=GRANITE_DEFAULTS,
    ),
    Architecture(
        "granitemoe",
        ("GraniteMoeForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, GRANITE_EXPERTS),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        sizes=EXPERT_COUNT,
        numbers=GRANITE_NUMBERS,
        defaults=GRANITE_DEFAULTS,
    ),
    Architecture(
        "glm4",
        ("Glm4ForCausalLM",),
        model(GLM4_NORMS, ATTENTION, qkv_bias(optional=True), FUSED_FEED_FORWARD),
        required=SILU,
        defaults={"partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07},
        partly_rotated=True,
    ),
    Architecture(
        "command-r",
        ("CohereForCausalLM",),
        model(NORM_BEFORE, OWN_HEAD_NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD),
        required=SILU,
        numbers={"logit_scale": stated("logit_scale")},
        epsilon=LAYER_NORM,
        defaults=COHERE_DEFAULTS | {"rope_theta": 5e5},
    ),
    Architecture(
        "cohere2",
        ("Cohere2ForCausalLM",),
        model(NORM_BEFORE, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD),
        required=SILU,
        keys={"attention.sliding_window": "window", "vocab_size": "vocab"},
        numbers={"logit_scale": stated("logit_scale")},
        epsilon=LAYER_NORM,
        defaults=COHERE_DEFAULTS | {"sliding_window": 4096},
    ),
    Architecture(
        "stablelm",
        ("StableLmForCausalLM",),
        model(
            NORM_BEFORE,
            STABLELM_NORMS,
            ATTENTION,
            qkv_bias(optional=True),
            FEED_FORWARD,
            output_norm=(OUTPUT_NORM, OUTPUT_NORM_BIAS),
        ),
        required=SILU,
        flags={"use_parallel_residual": "use_parallel_residual"},
        epsilon=LAYER_NORM,
        defaults={"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5},
        partly_rotated=True,
    ),
    Architecture(
        "llama",
        ("InternLM3ForCausalLM",),
        model(NORMS, ATTENTION, qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD, FEED_FORWARD_BIAS),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        "internlm2",
        ("InternLM2ForCausalLM",),
        INTERNLM2,
        interleaved=True,
        required=SILU | {"bias": (False,), "tie_word_embeddings": (False,)},
        keys={"vocab_size": "vocab"},
    ),
    Architecture(
        "minicpm",
        ("MiniCPMForCausalLM",),
        model(NORMS, ATTENTION, FEED_FORWARD),
        interleaved=True,
        required=SILU,
        numbers={
            "embedding_scale": stated("scale_emb"),
            "residual_scale": minicpm_residual_scale,
            "logit_scale": minicpm_logit_scale,
        },
        defaults={"tie_word_embeddings": True},
    ),
)


def find_architecture(config: Config) -> Architecture:
    """The entry for the model class that config.json names; InputError listing the known ones if none."""
    classes = config.values.get("architectures")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{config.where}: architectures is missing, expected a list with the model's class")
    # A model saved without its head is of the class without it.
    names = (classes[0], re.sub(r"(?<=.)Model$", "ForCausalLM", classes[0]))
    for architecture in ARCHITECTURES:
        if any(name in architecture.classes for name in names):
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.classes)
    raise InputError(f"{config.where}: architecture {classes[0]} is not supported; supported are {known}")


def known_gguf_names() -> tuple[str, ...]:
    """The values of general.architecture that a file with DCA may have."""
    return tuple(dict.fromkeys(architecture.name for architecture in ARCHITECTURES))
