"""The architectures that can be exported: one declarative entry each, and nothing else here.

An entry says what a Hugging Face class is called in GGUF, what its file states beyond what every file does,
and which tensor becomes which. Names on the GGUF side are llama.cpp's; shapes are words that Dimensions
explains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dca_export.config import Config
from dca_export.errors import InputError


@dataclass(frozen=True)
class TensorRule:
    """One tensor of the GGUF file and where it comes from.

    `{layer}` in the names repeats the rule for each layer. A source with `{expert}` is stacked over the
    experts. `stacked` names the tensor that some checkpoints hold instead, experts already stacked; of that
    one, `half` is the part of its rows wanted (0 or 1; None: all of them). `rotated` marks rows that RoPE
    turns, which Architecture.interleaved reorders. `f32` keeps a matrix out of quantisation.
    """

    target: str
    source: str
    shape: tuple[str, ...]
    optional: bool = False
    rotated: bool = False
    f32: bool = False
    stacked: str | None = None
    half: int | None = None


@dataclass(frozen=True)
class Architecture:
    """How models of some Hugging Face classes are written as one kind of GGUF model.

    `interleaved`: llama.cpp rotates neighbouring pairs (2i, 2i + 1) where Hugging Face rotates the halves
    (i, i + head_dim / 2), so the rows of q and k are reordered. `required`: config keys that must have one
    of the listed values (absent counts as the first). `keys`: GGUF keys beyond those every model states, with
    the word of Dimensions that is their value. `sizes`: for words of Dimensions that only this architecture
    has, the config keys that may state them. Of a mixture: `norm_topk`, whether engines normalise the chosen
    experts' weights if the file does not say, and `norm_topk_unstated`, what a config.json that does not say
    means.
    """

    name: str
    classes: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    interleaved: bool = False
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_topk: bool = True
    norm_topk_unstated: bool = True


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one model; `size` resolves the words that shapes are written in."""

    layers: int
    vocab: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    experts: int = 0
    expert_ff: int = 0
    shared_ff: int = 0
    window: int = 0  # of sliding-window attention; 0: none
    original_context: int = 0  # tokens before RoPE scaling, whether there is any or not

    def size(self, word: str) -> int:
        derived = {
            "q": self.heads * self.head_dim,
            "kv": self.kv_heads * self.head_dim,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head_dim,
            "2ff": 2 * self.ff,
            "1": 1,
        }
        return derived[word] if word in derived else getattr(self, word)


def _block(target: str, source: str, *shape: str, **options: Any) -> TensorRule:
    return TensorRule(f"blk.{{layer}}.{target}", f"model.layers.{{layer}}.{source}", shape, **options)


EMBEDDING = TensorRule("token_embd.weight", "model.embed_tokens.weight", ("vocab", "width"))
OUTPUT_NORM = TensorRule("output_norm.weight", "model.norm.weight", ("width",))
OUTPUT = TensorRule("output.weight", "lm_head.weight", ("vocab", "width"))

NORMS = (
    _block("attn_norm.weight", "input_layernorm.weight", "width"),
    _block("ffn_norm.weight", "post_attention_layernorm.weight", "width"),
)
ATTENTION = (
    _block("attn_q.weight", "self_attn.q_proj.weight", "q", "width", rotated=True),
    _block("attn_k.weight", "self_attn.k_proj.weight", "kv", "width", rotated=True),
    _block("attn_v.weight", "self_attn.v_proj.weight", "kv", "width"),
    _block("attn_output.weight", "self_attn.o_proj.weight", "width", "q"),
)
FUSED_ATTENTION = (
    _block("attn_qkv.weight", "self_attn.qkv_proj.weight", "qkv", "width"),
    _block("attn_output.weight", "self_attn.o_proj.weight", "width", "q"),
)
QK_NORM = (
    _block("attn_q_norm.weight", "self_attn.q_norm.weight", "head_dim"),
    _block("attn_k_norm.weight", "self_attn.k_norm.weight", "head_dim"),
)
FEED_FORWARD = (
    _block("ffn_gate.weight", "mlp.gate_proj.weight", "ff", "width"),
    _block("ffn_up.weight", "mlp.up_proj.weight", "ff", "width"),
    _block("ffn_down.weight", "mlp.down_proj.weight", "width", "ff"),
)
FEED_FORWARD_BIAS = (
    _block("ffn_gate.bias", "mlp.gate_proj.bias", "ff", optional=True),
    _block("ffn_up.bias", "mlp.up_proj.bias", "ff", optional=True),
    _block("ffn_down.bias", "mlp.down_proj.bias", "width", optional=True),
)
FUSED_FEED_FORWARD = (
    _block("ffn_up.weight", "mlp.gate_up_proj.weight", "2ff", "width"),
    _block("ffn_down.weight", "mlp.down_proj.weight", "width", "ff"),
)
SHARED_EXPERT = (
    _block("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", "1", "width", f32=True),
    _block("ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", "shared_ff", "width"),
    _block("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", "shared_ff", "width"),
    _block("ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", "width", "shared_ff"),
)


def _qkv_bias(optional: bool) -> tuple[TensorRule, ...]:
    return (
        _block("attn_q.bias", "self_attn.q_proj.bias", "q", rotated=True, optional=optional),
        _block("attn_k.bias", "self_attn.k_proj.bias", "kv", rotated=True, optional=optional),
        _block("attn_v.bias", "self_attn.v_proj.bias", "kv", optional=optional),
    )


def _experts(module: str, gate: str, up: str, down: str, ff: str) -> tuple[TensorRule, ...]:
    each, stacked = f"{module}.experts.{{expert}}", f"model.layers.{{layer}}.{module}.experts"
    gate_up, down_stacked = f"{stacked}.gate_up_proj", f"{stacked}.down_proj"
    rows, columns = ("experts", ff, "width"), ("experts", "width", ff)
    return (
        _block("ffn_gate_inp.weight", f"{module}.gate.weight", "experts", "width", f32=True),
        _block("ffn_gate_exps.weight", f"{each}.{gate}.weight", *rows, stacked=gate_up, half=0),
        _block("ffn_up_exps.weight", f"{each}.{up}.weight", *rows, stacked=gate_up, half=1),
        _block("ffn_down_exps.weight", f"{each}.{down}.weight", *columns, stacked=down_stacked),
    )


def _model(*groups: tuple[TensorRule, ...]) -> tuple[TensorRule, ...]:
    return (EMBEDDING, *(rule for group in groups for rule in group), OUTPUT_NORM, OUTPUT)


OUTPUT_BIAS = (_block("attn_output.bias", "self_attn.o_proj.bias", "width", optional=True),)
QWEN_EXPERTS = _experts("mlp", "gate_proj", "up_proj", "down_proj", "expert_ff")

SILU = {"hidden_act": ("silu",)}
ALL_SPARSE = SILU | {"mlp_only_layers": ([],), "decoder_sparse_step": (1,)}
EXPERT_COUNT: dict[str, tuple[str, ...]] = {"experts": ("num_local_experts", "num_experts")}
EXPERT_SIZES = EXPERT_COUNT | {"expert_ff": ("moe_intermediate_size",)}
SHARED_SIZE: dict[str, tuple[str, ...]] = {"shared_ff": ("shared_expert_intermediate_size",)}

ARCHITECTURES = (
    Architecture(
        "llama",
        ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"),
        _model(NORMS, ATTENTION, _qkv_bias(optional=True), OUTPUT_BIAS, FEED_FORWARD, FEED_FORWARD_BIAS),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
    ),
    Architecture(
        "llama",
        ("MixtralForCausalLM",),
        _model(NORMS, ATTENTION, _experts("block_sparse_moe", gate="w1", up="w3", down="w2", ff="ff")),
        interleaved=True,
        required=SILU,
        keys={"vocab_size": "vocab"},
        sizes=EXPERT_COUNT,
    ),
    Architecture(
        "qwen2",
        ("Qwen2ForCausalLM",),
        _model(NORMS, ATTENTION, _qkv_bias(optional=False), FEED_FORWARD),
        required=SILU,
    ),
    Architecture(
        "qwen3",
        ("Qwen3ForCausalLM",),
        _model(NORMS, ATTENTION, QK_NORM, _qkv_bias(optional=True), FEED_FORWARD),
        required=SILU,
    ),
    Architecture(
        "phi3",
        ("Phi3ForCausalLM",),
        _model(NORMS, FUSED_ATTENTION, FUSED_FEED_FORWARD),
        required=SILU,
        keys={
            "attention.sliding_window": "window",
            "rope.scaling.original_context_length": "original_context",
        },
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        _model(NORMS, ATTENTION, _qkv_bias(optional=True), QWEN_EXPERTS, SHARED_EXPERT),
        required=ALL_SPARSE,
        keys={"expert_feed_forward_length": "expert_ff", "expert_shared_feed_forward_length": "shared_ff"},
        sizes=EXPERT_SIZES | SHARED_SIZE,
        norm_topk=False,
        norm_topk_unstated=False,
    ),
    Architecture(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        _model(NORMS, ATTENTION, QK_NORM, _qkv_bias(optional=True), QWEN_EXPERTS),
        required=ALL_SPARSE,
        keys={"expert_feed_forward_length": "expert_ff"},
        sizes=EXPERT_SIZES,
        norm_topk_unstated=False,
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
