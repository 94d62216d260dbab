"""Of what the architectures' entries are made: rules for tensors, sizes, and groups of rules that families
share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dca_export.checkpoint.derived import plus_one
from dca_export.checkpoint.tensors import SourceTensor
from dca_export.config import Config


@dataclass(frozen=True)
class TensorRule:
    """One tensor of the GGUF file and where it comes from.

    `{layer}` in the names repeats the rule for each layer. A source with `{expert}` or `{head}` is stacked
    over the experts or heads. `stacked` names the tensor that some checkpoints hold instead, experts already
    stacked; of that one, `half` is the part of its rows wanted (0 or 1; None: all of them). `rotated` marks
    rows that RoPE turns, which Architecture.interleaved reorders. `f32` keeps a matrix out of quantisation.
    What the checkpoint holds goes through `derive` first, where there is one, and of it only `rows` [start,
    stop) are taken. `instead`: another source and its derivation, for checkpoints that have that one.
    """

    target: str
    source: str
    shape: tuple[str, ...]
    optional: bool = False
    rotated: bool = False
    f32: bool = False
    stacked: str | None = None
    half: int | None = None
    derive: Callable[[SourceTensor], SourceTensor] | None = None
    rows: Callable[[Dimensions], list[tuple[int, int]]] | None = None
    instead: tuple[str, Callable[[SourceTensor], SourceTensor]] | None = None


@dataclass(frozen=True)
class Architecture:
    """How models of some Hugging Face classes are written as one kind of GGUF model.

    `interleaved`: llama.cpp rotates neighbouring pairs (2i, 2i + 1) where Hugging Face rotates the halves
    (i, i + head_dim / 2), so the rows of q and k are reordered. `required`: config keys that must have one
    of the listed values (absent counts as the first). `keys`: GGUF keys beyond those every model states, with
    the word of Dimensions that is their value. `sizes`: for words of Dimensions that only this architecture
    has, the config keys that may state them. `numbers`: further GGUF keys (f32) with what computes them; of
    None nothing is written. `flags`: likewise bools, and the config keys that state them. `epsilon`: the GGUF
    key and the config's of the norms' epsilon. `defaults`: what the classes take where config.json is silent.
    `class_defaults`: those of some of the classes alone. `partly_rotated`: RoPE may turn a part of a head.
    `unrotated_period`: engines know that one of so many layers has no RoPE (0: all have it).
    Of a mixture: `norm_topk`, whether engines normalise the chosen experts' weights if the file does not say,
    and `norm_topk_unstated`, what a config.json that does not say means.
    """

    name: str
    classes: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    interleaved: bool = False
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    epsilon: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    defaults: Mapping[str, Any] = field(default_factory=dict)
    class_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    partly_rotated: bool = False
    unrotated_period: int = 0
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
            "2expert_ff": 2 * self.expert_ff,
            "1": 1,
        }
        return derived[word] if word in derived else getattr(self, word)


Number = Callable[[Config, Dimensions], float | None]


def block(target: str, source: str, *shape: str, **options: Any) -> TensorRule:
    return TensorRule(f"blk.{{layer}}.{target}", f"model.layers.{{layer}}.{source}", shape, **options)


EMBEDDING = TensorRule("token_embd.weight", "model.embed_tokens.weight", ("vocab", "width"))
OUTPUT_NORM = TensorRule("output_norm.weight", "model.norm.weight", ("width",))
OUTPUT = TensorRule("output.weight", "lm_head.weight", ("vocab", "width"))

NORMS = (
    block("attn_norm.weight", "input_layernorm.weight", "width"),
    block("ffn_norm.weight", "post_attention_layernorm.weight", "width"),
)
ATTENTION = (
    block("attn_q.weight", "self_attn.q_proj.weight", "q", "width", rotated=True),
    block("attn_k.weight", "self_attn.k_proj.weight", "kv", "width", rotated=True),
    block("attn_v.weight", "self_attn.v_proj.weight", "kv", "width"),
    block("attn_output.weight", "self_attn.o_proj.weight", "width", "q"),
)
FUSED_ATTENTION = (
    block("attn_qkv.weight", "self_attn.qkv_proj.weight", "qkv", "width"),
    block("attn_output.weight", "self_attn.o_proj.weight", "width", "q"),
)
QK_NORM = (
    block("attn_q_norm.weight", "self_attn.q_norm.weight", "head_dim"),
    block("attn_k_norm.weight", "self_attn.k_norm.weight", "head_dim"),
)
FEED_FORWARD = (
    block("ffn_gate.weight", "mlp.gate_proj.weight", "ff", "width"),
    block("ffn_up.weight", "mlp.up_proj.weight", "ff", "width"),
    block("ffn_down.weight", "mlp.down_proj.weight", "width", "ff"),
)
FEED_FORWARD_BIAS = (
    block("ffn_gate.bias", "mlp.gate_proj.bias", "ff", optional=True),
    block("ffn_up.bias", "mlp.up_proj.bias", "ff", optional=True),
    block("ffn_down.bias", "mlp.down_proj.bias", "width", optional=True),
)
FUSED_FEED_FORWARD = (
    block("ffn_up.weight", "mlp.gate_up_proj.weight", "2ff", "width"),
    block("ffn_down.weight", "mlp.down_proj.weight", "width", "ff"),
)
SHARED_EXPERT = (
    block("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", "1", "width", f32=True),
    block("ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", "shared_ff", "width"),
    block("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", "shared_ff", "width"),
    block("ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", "width", "shared_ff"),
)


def qkv_bias(optional: bool) -> tuple[TensorRule, ...]:
    return (
        block("attn_q.bias", "self_attn.q_proj.bias", "q", rotated=True, optional=optional),
        block("attn_k.bias", "self_attn.k_proj.bias", "kv", rotated=True, optional=optional),
        block("attn_v.bias", "self_attn.v_proj.bias", "kv", optional=optional),
    )


def experts(module: str, gate: str, up: str, down: str, ff: str) -> tuple[TensorRule, ...]:
    each, stacked = f"{module}.experts.{{expert}}", f"model.layers.{{layer}}.{module}.experts"
    gate_up, down_stacked = f"{stacked}.gate_up_proj", f"{stacked}.down_proj"
    rows, columns = ("experts", ff, "width"), ("experts", "width", ff)
    return (
        block("ffn_gate_inp.weight", f"{module}.gate.weight", "experts", "width", f32=True),
        block("ffn_gate_exps.weight", f"{each}.{gate}.weight", *rows, stacked=gate_up, half=0),
        block("ffn_up_exps.weight", f"{each}.{up}.weight", *rows, stacked=gate_up, half=1),
        block("ffn_down_exps.weight", f"{each}.{down}.weight", *columns, stacked=down_stacked),
    )


def model(
    *groups: tuple[TensorRule, ...], output_norm: tuple[TensorRule, ...] = (OUTPUT_NORM,)
) -> tuple[TensorRule, ...]:
    return (EMBEDDING, *(rule for group in groups for rule in group), *output_norm, OUTPUT)


OUTPUT_BIAS = (block("attn_output.bias", "self_attn.o_proj.bias", "width", optional=True),)
WIDE_QK_NORM = (
    block("attn_q_norm.weight", "self_attn.q_norm.weight", "q"),
    block("attn_k_norm.weight", "self_attn.k_norm.weight", "kv"),
)
NORM_BEFORE = (block("attn_norm.weight", "input_layernorm.weight", "width"),)
NORMS_AFTER = (
    block("post_attention_norm.weight", "post_attention_layernorm.weight", "width"),
    block("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "width"),
)
# Gemma's norms multiply by 1 + weight; files hold the factor.
GEMMA_NORMS = (
    block("attn_norm.weight", "input_layernorm.weight", "width", derive=plus_one),
    block("post_attention_norm.weight", "post_attention_layernorm.weight", "width", derive=plus_one),
    block("ffn_norm.weight", "pre_feedforward_layernorm.weight", "width", derive=plus_one),
    block("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "width", derive=plus_one),
)
GEMMA_QK_NORM = (
    block("attn_q_norm.weight", "self_attn.q_norm.weight", "head_dim", derive=plus_one),
    block("attn_k_norm.weight", "self_attn.k_norm.weight", "head_dim", derive=plus_one),
)
GLM4_NORMS = (
    block("attn_norm.weight", "input_layernorm.weight", "width"),
    block("post_attention_norm.weight", "post_self_attn_layernorm.weight", "width"),
    block("ffn_norm.weight", "post_attention_layernorm.weight", "width"),
    block("post_ffw_norm.weight", "post_mlp_layernorm.weight", "width"),
)
OWN_HEAD_NORMS = (  # every head's its own, where there are any
    block("attn_q_norm.weight", "self_attn.q_norm.weight", "heads", "head_dim", optional=True, f32=True),
    block("attn_k_norm.weight", "self_attn.k_norm.weight", "kv_heads", "head_dim", optional=True, f32=True),
)
STABLELM_NORMS = (
    block("attn_norm.bias", "input_layernorm.bias", "width"),
    block("ffn_norm.weight", "post_attention_layernorm.weight", "width", optional=True),
    block("ffn_norm.bias", "post_attention_layernorm.bias", "width", optional=True),
    block(
        "attn_q_norm.weight",
        "self_attn.q_layernorm.norms.{head}.weight",
        "heads",
        "head_dim",
        f32=True,
        optional=True,
    ),
    block(
        "attn_k_norm.weight",
        "self_attn.k_layernorm.norms.{head}.weight",
        "kv_heads",
        "head_dim",
        f32=True,
        optional=True,
    ),
)
GEMMA_OUTPUT_NORM = (replace(OUTPUT_NORM, derive=plus_one),)
OUTPUT_NORM_BIAS = TensorRule("output_norm.bias", "model.norm.bias", ("width",))
_GRANITE = "model.layers.{layer}.block_sparse_moe"
GRANITE_EXPERTS = (
    block("ffn_gate_inp.weight", "block_sparse_moe.router.layer.weight", "experts", "width", f32=True),
    *(
        block(
            f"ffn_{name}_exps.weight",
            "block_sparse_moe.input_linear.weight",
            *("experts", "ff", "width"),
            stacked=f"{_GRANITE}.input_linear.weight",
            half=half,
        )
        for half, name in enumerate(("gate", "up"))
    ),
    block("ffn_down_exps.weight", "block_sparse_moe.output_linear.weight", "experts", "width", "ff"),
)


def _grouped_rows(part: str) -> Callable[[Dimensions], list[tuple[int, int]]]:
    """InternLM2's fused rows: of each key head its query heads, then k, then v."""

    def rows(d: Dimensions) -> list[tuple[int, int]]:
        queries = d.heads // d.kv_heads
        first, count = {"q": (0, queries), "k": (queries, 1), "v": (queries + 1, 1)}[part]
        starts = ((group * (queries + 2) + first) * d.head_dim for group in range(d.kv_heads))
        return [(start, start + count * d.head_dim) for start in starts]

    return rows


INTERNLM2 = (
    replace(EMBEDDING, source="model.tok_embeddings.weight"),
    block("attn_norm.weight", "attention_norm.weight", "width"),
    block("ffn_norm.weight", "ffn_norm.weight", "width"),
    block("attn_q.weight", "attention.wqkv.weight", "q", "width", rotated=True, rows=_grouped_rows("q")),
    block("attn_k.weight", "attention.wqkv.weight", "kv", "width", rotated=True, rows=_grouped_rows("k")),
    block("attn_v.weight", "attention.wqkv.weight", "kv", "width", rows=_grouped_rows("v")),
    block("attn_output.weight", "attention.wo.weight", "width", "q"),
    block("ffn_gate.weight", "feed_forward.w1.weight", "ff", "width"),
    block("ffn_up.weight", "feed_forward.w3.weight", "ff", "width"),
    block("ffn_down.weight", "feed_forward.w2.weight", "width", "ff"),
    OUTPUT_NORM,
    replace(OUTPUT, source="output.weight"),
)
