"""Small random models in every block format, with biases and head norms, for the CUDA backend's tests."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from dca_runtime.blocks import encode


@dataclass(frozen=True)
class Variant:
    """``types`` are ggml type names: of all matrices, then of those whose name contains a key."""

    types: tuple[tuple[str, str], ...] = (("", "F16"),)
    architecture: str = "llama"  # qwen2 and qwen3 turn halves instead of neighbours
    layers: int = 2
    width: int = 256
    ff: int = 512
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 515  # odd on purpose
    bias: bool = False  # of q, k and v
    head_norm: bool = False  # of q and k
    tied: bool = False
    scheme: tuple[int, int, int] | None = None
    seed: int = 0


def write_variant(path: Path, variant: Variant) -> None:
    """Writes the model that ``variant`` describes."""
    writer = gguf.GGUFWriter(path, variant.architecture)
    writer.add_context_length(4096)
    writer.add_embedding_length(variant.width)
    writer.add_block_count(variant.layers)
    writer.add_feed_forward_length(variant.ff)
    writer.add_head_count(variant.heads)
    writer.add_head_count_kv(variant.kv_heads)
    writer.add_key_length(variant.head_dim)
    writer.add_value_length(variant.head_dim)
    writer.add_rope_dimension_count(variant.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(variant.vocab)
    for key, value in zip(
        ("chunk_size", "local_window", "pretraining_length"), variant.scheme or (), strict=False
    ):
        writer.add_uint32(f"{variant.architecture}.attention.dca.{key}", value)
    for name, values in _tensors(variant).items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        dtype = gguf.GGMLQuantizationType[_type_of(name, variant)]
        writer.add_tensor(name, encode(int(dtype), values), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _type_of(name: str, variant: Variant) -> str:
    return [dtype for key, dtype in variant.types if key in name][-1]


def _tensors(variant: Variant) -> dict[str, np.ndarray]:
    random = np.random.default_rng(variant.seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    def near_one(length: int) -> np.ndarray:
        return random.uniform(0.5, 1.5, length).astype(np.float32)

    queries, keys = variant.heads * variant.head_dim, variant.kv_heads * variant.head_dim
    tensors = {"token_embd.weight": matrix(variant.vocab, variant.width)}
    for layer in range(variant.layers):
        prefix = f"blk.{layer}."
        tensors[prefix + "attn_norm.weight"] = near_one(variant.width)
        # A gain on q and k makes the softmax sharp, so that a wrong position shows in the logits.
        for name, rows, gain in (("attn_q", queries, 2.0), ("attn_k", keys, 2.0), ("attn_v", keys, 1.0)):
            tensors[prefix + name + ".weight"] = matrix(rows, variant.width, gain)
            if variant.bias:
                tensors[prefix + name + ".bias"] = random.standard_normal(rows).astype(np.float32)
        if variant.head_norm:
            tensors[prefix + "attn_q_norm.weight"] = near_one(variant.head_dim)
            tensors[prefix + "attn_k_norm.weight"] = near_one(variant.head_dim)
        tensors[prefix + "attn_output.weight"] = matrix(variant.width, queries)
        tensors[prefix + "ffn_norm.weight"] = near_one(variant.width)
        tensors[prefix + "ffn_gate.weight"] = matrix(variant.ff, variant.width)
        tensors[prefix + "ffn_up.weight"] = matrix(variant.ff, variant.width)
        tensors[prefix + "ffn_down.weight"] = matrix(variant.width, variant.ff)
    tensors["output_norm.weight"] = near_one(variant.width)
    if not variant.tied:
        tensors["output.weight"] = matrix(variant.vocab, variant.width)
    return tensors
