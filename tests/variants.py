"""Small random models in every block format, dense or with experts, for tests that need them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from dca_runtime.blocks import encode

GRIDS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")  # read, but not written, by this library


@dataclass(frozen=True)
class Variant:
    """``types`` are ggml type names: of all matrices, then of those whose name contains a key."""

    types: tuple[tuple[str, str], ...] = (("", "F16"),)
    architecture: str = "llama"  # qwen2 and qwen3 turn halves instead of neighbours
    layers: int = 2
    width: int = 256
    ff: int = 512  # of a mixture: of each expert
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 515  # odd on purpose
    bias: bool = False  # of q, k and v
    head_norm: bool = False  # of q and k
    tied: bool = False
    experts: int = 0  # 0: dense
    experts_used: int = 2
    # "channels": an expert's logit is a number that the embedding gives each token and no layer changes, so
    # that both backends pick the same experts, however they round. "dense": a random matrix. "zero": zeros.
    router: str = "channels"
    expert_weights: tuple[bool, float] | None = None  # normed, scale; None: no such keys
    ff_shared: int = 0  # 0: no shared expert
    shared_gate: bool = False
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
    if variant.experts:
        _expert_keys(writer, variant)
    for key, value in zip(
        ("chunk_size", "local_window", "pretraining_length"), variant.scheme or (), strict=False
    ):
        writer.add_uint32(f"{variant.architecture}.attention.dca.{key}", value)
    for name, values in _tensors(variant).items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        dtype = gguf.GGMLQuantizationType[_type_of(name, variant)]
        rows = values.reshape(-1, values.shape[-1])
        blocks = random_blocks(rows, dtype) if dtype.name in GRIDS else encode(int(dtype), rows)
        writer.add_tensor(name, blocks.reshape(*values.shape[:-1], -1), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(values: np.ndarray, dtype: gguf.GGMLQuantizationType) -> np.ndarray:
    """Blocks of random bytes in one of GRIDS, of the shape and the standard deviation of ``values``."""
    size, in_bytes = gguf.GGML_QUANT_SIZES[dtype]
    shape = (len(values), values.shape[1] // size, in_bytes)
    blocks = np.random.default_rng(values.shape[0]).integers(0, 256, shape, np.uint8)
    blocks[..., :2] = np.float16([1]).view(np.uint8)  # all begin with their scale
    spread = gguf.quants.dequantize(blocks.reshape(len(values), -1), dtype).std()
    blocks[..., :2] = np.float16([values.std() / spread]).view(np.uint8)
    return blocks.reshape(len(values), -1)


def _expert_keys(writer: gguf.GGUFWriter, variant: Variant) -> None:
    writer.add_expert_count(variant.experts)
    writer.add_expert_used_count(variant.experts_used)
    writer.add_expert_feed_forward_length(variant.ff)
    if variant.ff_shared:
        writer.add_expert_shared_feed_forward_length(variant.ff_shared)
    if variant.expert_weights is not None:
        normed, scale = variant.expert_weights
        writer.add_expert_weights_norm(normed)
        writer.add_expert_weights_scale(scale)


def _type_of(name: str, variant: Variant) -> str:
    if "ffn_gate_inp" in name and not any("ffn_gate_inp" in key for key, _ in variant.types):
        return "F32"  # as in files of real models
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
        if variant.experts:
            tensors |= _expert_tensors(variant, prefix, random, matrix)
            continue
        tensors[prefix + "ffn_gate.weight"] = matrix(variant.ff, variant.width)
        tensors[prefix + "ffn_up.weight"] = matrix(variant.ff, variant.width)
        tensors[prefix + "ffn_down.weight"] = matrix(variant.width, variant.ff)
    tensors["output_norm.weight"] = near_one(variant.width)
    if not variant.tied:
        tensors["output.weight"] = matrix(variant.vocab, variant.width)
    if variant.experts and variant.router == "channels":
        _keep_channels(variant, tensors, random)
    return tensors


def _expert_tensors(
    variant: Variant, prefix: str, random: np.random.Generator, matrix: Callable[..., np.ndarray]
) -> dict[str, np.ndarray]:
    def experts(rows: int, columns: int) -> np.ndarray:
        return np.stack([matrix(rows, columns) for _ in range(variant.experts)])

    router = np.zeros((variant.experts, variant.width), np.float32)
    if variant.router == "channels":
        router[np.arange(variant.experts), _channels(variant)] = 1.0
    elif variant.router == "dense":
        router = matrix(variant.experts, variant.width)
    tensors = {
        "ffn_gate_inp": router,
        "ffn_gate_exps": experts(variant.ff, variant.width),
        "ffn_up_exps": experts(variant.ff, variant.width),
        "ffn_down_exps": experts(variant.width, variant.ff),
    }
    if variant.ff_shared:
        tensors["ffn_gate_shexp"] = matrix(variant.ff_shared, variant.width)
        tensors["ffn_up_shexp"] = matrix(variant.ff_shared, variant.width)
        tensors["ffn_down_shexp"] = matrix(variant.width, variant.ff_shared)
    if variant.shared_gate:
        tensors["ffn_gate_inp_shexp"] = matrix(1, variant.width, gain=2.0)[0]
    return {f"{prefix}{name}.weight": values for name, values in tensors.items()}


def _channels(variant: Variant) -> np.ndarray:
    """The features of the residual stream that hold the experts' logits."""
    return np.arange(variant.experts) * (variant.width // variant.experts)


def _keep_channels(variant: Variant, tensors: dict[str, np.ndarray], random: np.random.Generator) -> None:
    channels = _channels(variant)
    logits = np.linspace(-1.7, 1.7, variant.experts, dtype=np.float32)  # of standard deviation 1
    for token in range(variant.vocab):
        tensors["token_embd.weight"][token, channels] = random.permutation(logits)
    for name, values in tensors.items():
        if name.endswith(("attn_output.weight", "down_exps.weight", "down_shexp.weight")):
            values[..., channels, :] = 0.0
