"""Small random models for parity, of several families, in any type of weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from hf_families import make, set_biases
from hf_to_gguf import write_gguf

CASES = ("llama", "qwen3", "phi3")  # neighbours turned, halves turned with normed heads, q, k and v in one
SCHEME = (15, 6, 24)
LENGTH = 120  # tokens: seven chunk borders
# Sizes that blocks of 32 divide.
_SIZES = {"intermediate_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


def write_model(path: Path, case: str, dtype: str, spread: float = 0.3, seed: int = 0) -> Path:
    """A model of the family with weights of standard deviation `spread`: the smaller, the less a wrong
    position changes. `dtype` is "f16" and so on."""
    model = make(case, torch.float32, initializer_range=spread, **_SIZES)
    torch.manual_seed(seed)
    if seed:
        for each in model.parameters():
            if each.dim() > 1:
                each.normal_(0, spread)
    set_biases(model)
    keys = dict(zip(("chunk_size", "local_window", "pretraining_length"), SCHEME, strict=True))
    named = {f"attention.dca.{key}": value for key, value in keys.items()}
    return write_gguf(path, model, named, dtype=gguf.GGMLQuantizationType[dtype.upper()])
