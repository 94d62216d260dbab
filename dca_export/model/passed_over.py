"""What a file gets and transformers leaves out: biases and norms that config.json does not turn on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dca_export.config import Config
from dca_export.model.layout import PlannedTensor

_ATTENTION = re.compile(r"blk\.\d+\.attn_(q|k|v|output)\.bias")
_FEED_FORWARD = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.bias")
_NORMS = re.compile(r"blk\.\d+\.attn_[qk]_norm\.weight")

# By class: of these tensors, the key that turns them on, and what it is where it is not stated; None: no such
# tensor is ever used. Classes that are not here use what there is, or need it.
_READ: dict[str, Mapping[re.Pattern[str], tuple[str, bool] | None]] = {
    **dict.fromkeys(
        ("LlamaForCausalLM", "GraniteForCausalLM", "SmolLM3ForCausalLM"),
        {
            _ATTENTION: ("attention_bias", False),
            _FEED_FORWARD: ("mlp_bias", False),
        },
    ),
    **dict.fromkeys(("MistralForCausalLM", "MinistralForCausalLM"), {_ATTENTION: None, _FEED_FORWARD: None}),
    **dict.fromkeys(
        (
            "Qwen3ForCausalLM",
            "Qwen3MoeForCausalLM",
            "Olmo2ForCausalLM",
            "Olmo3ForCausalLM",
            "Cohere2ForCausalLM",
            "GraniteMoeForCausalLM",
        ),
        {_ATTENTION: ("attention_bias", False)},
    ),
    "CohereForCausalLM": {_ATTENTION: ("attention_bias", False), _NORMS: ("use_qk_norm", False)},
    "StableLmForCausalLM": {_ATTENTION: ("use_qkv_bias", False), _NORMS: ("qk_layernorm", False)},
    "Qwen2MoeForCausalLM": {_ATTENTION: ("qkv_bias", True)},
    "GptOssForCausalLM": {_ATTENTION: ("attention_bias", True)},
    "Glm4ForCausalLM": {_ATTENTION: ("attention_bias", True)},
}


def passed_over(config: Config, planned: Iterable[PlannedTensor]) -> list[str]:
    """Notes on stored tensors that transformers' class would leave out, so that its results are others."""
    name = config.values["architectures"][0]
    stored = [each.name for each in planned if not any(piece.tensor.parts for piece in each.pieces)]
    notes = []
    for pattern, flag in _READ.get(name, {}).items():
        found = [each for each in stored if pattern.fullmatch(each)]
        if not found or (flag is not None and config.boolean(*flag)):
            continue
        why = f"where {flag[0]} is not true" if flag else "as it has none"
        tensors = f"{len(found)} tensors such as {found[0]}"
        notes.append(f"{tensors} are exported, transformers' {name} leaves them out {why}")
    return notes
