"""Checkpoints of families that transformers has no class for, from models that compute the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Other:
    """hf_families.make's model of `family` with `changes`; `config` and `tensors` make it the other's."""

    family: str
    changes: dict[str, Any]
    config: dict[str, Any]
    tensors: Callable[[Tensors], Tensors] = field(default=lambda tensors: tensors)

    def rewrite(self, directory: Path) -> None:
        """A saved model as the other's checkpoints are."""
        file, weights = directory / "config.json", directory / "model.safetensors"
        file.write_text(json.dumps(json.loads(file.read_text()) | self.config))
        save_file(self.tensors(load_file(weights)), weights)


def _internlm2(tensors: Tensors) -> Tensors:
    """Its names, and q, k and v in one matrix by key head (two key heads of 16 rows, four heads)."""
    renamed = {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        q, k, v = (tensors.pop(f"{prefix}self_attn.{name}_proj.weight") for name in "qkv")
        groups = [
            np.concatenate([q[32 * g : 32 * g + 32], k[16 * g :][:16], v[16 * g :][:16]]) for g in (0, 1)
        ]
        tensors[f"{prefix}attention.wqkv.weight"] = np.concatenate(groups)
    for old, new in renamed.items():
        tensors = {name.replace(old, new): values for name, values in tensors.items()}
    return tensors


OTHERS = {
    "minicpm": Other(
        "granite",
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 1.4 / 2**0.5,
            "logits_scaling": 64 / 16,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
        },
        {
            "architectures": ["MiniCPMForCausalLM"],
            "model_type": "minicpm",
            "scale_emb": 12.0,
            "scale_depth": 1.4,
            "dim_model_base": 16,
        },
    ),
    "internlm2": Other(
        "llama", {}, {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}, _internlm2
    ),
}
