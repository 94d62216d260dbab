"""Makes small Hugging Face model directories with random weights: config.json, safetensors, tokenizer."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 320,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CORPUS = ["the quick brown fox jumps over the lazy dog 123 times, doesn't it?"] * 4


def tiny_config(**changes: Any) -> dict[str, Any]:
    """CONFIG with some values changed; None removes a key."""
    return {key: value for key, value in (CONFIG | changes).items() if value is not None}


def tiny_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a Llama of that config, f32, by their Hugging Face names."""
    random = np.random.default_rng(seed)
    width, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or width // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "self_attn.q_proj.weight": (q, width),
            prefix + "self_attn.k_proj.weight": (kv, width),
            prefix + "self_attn.v_proj.weight": (kv, width),
            prefix + "self_attn.o_proj.weight": (width, q),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "mlp.gate_proj.weight": (ff, width),
            prefix + "mlp.up_proj.weight": (ff, width),
            prefix + "mlp.down_proj.weight": (width, ff),
        }
    shapes["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, width)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def stored_as(values: np.ndarray, dtype: str) -> np.ndarray:
    """f32 values in the bits that safetensors has for `dtype`; BF16 is rounded to nearest even."""
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2", "F8_E4M3": "u1"}[dtype])


def write_safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """Writes stored values under their dtype's name, in the order given (no library in between)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, stored) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(stored.shape),
            "data_offsets": [at, at + stored.nbytes],
        }
        at += stored.nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, stored in tensors.values():
            file.write(stored.tobytes())


def tiny_tokenizer(vocab: int = 320) -> Tokenizer:
    """Byte-level BPE that cuts text as GPT-2's does; ids 0 and 1 are its special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken("<s>", special=True), AddedToken("</s>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def write_tokenizer(directory: Path, tokenizer: Tokenizer | None = None, **config: Any) -> None:
    """tokenizer.json and a tokenizer_config.json with `config` over some defaults."""
    (directory / "tokenizer.json").write_text((tokenizer or tiny_tokenizer()).to_str())
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(defaults | config))


def write_tiny_model(
    directory: Path, dtype: str = "F32", shards: int = 1, seed: int = 0, **changes: Any
) -> dict[str, np.ndarray]:
    """A whole model directory; returns the tensors before they were stored as `dtype`."""
    directory.mkdir(parents=True, exist_ok=True)
    config = tiny_config(**changes)
    (directory / "config.json").write_text(json.dumps(config))
    tensors = tiny_tensors(config, seed)
    stored = {name: (dtype, stored_as(values, dtype)) for name, values in tensors.items()}
    if shards == 1:
        write_safetensors(directory / "model.safetensors", stored)
    else:
        write_shards(directory, stored, shards)
    write_tokenizer(directory)
    return tensors


def write_shards(directory: Path, stored: dict[str, tuple[str, np.ndarray]], shards: int) -> None:
    """The tensors dealt out over `shards` files, with the index that Hugging Face writes."""
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    dealt: list[dict[str, tuple[str, np.ndarray]]] = [{} for _ in names]
    weight_map = {}
    for index, (name, tensor) in enumerate(stored.items()):
        dealt[index % shards][name] = tensor
        weight_map[name] = names[index % shards]
    for name, tensors in zip(names, dealt, strict=True):
        write_safetensors(directory / name, tensors)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
