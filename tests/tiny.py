"""Makes small GGUF files with random weights, for tests that need a model but no sense."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

DTYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
}

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ the", "i n", "Ġ a")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A model of Llama's architecture. Sizes must suit the dtype's block size (32 for q8_0 and q4_*)."""

    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    width: int = 64
    ff: int = 96
    vocab: int = 320
    dtype: str = "f32"
    scheme: tuple[int, ...] | None = None  # (s, w, c) or (s, w, c, logit_scale, logit_scale_length)
    tied: bool = False
    context_length: int = 64
    rope_base: float = 10000.0
    tokenizer: bool = False  # byte-level BPE; needs vocab >= 264
    seed: int = 0


def write_tiny_gguf(path: Path, tiny: Tiny) -> None:
    """Writes the model that ``tiny`` describes; the same description gives the same weights."""
    writer = gguf.GGUFWriter(path, "llama")
    _hyperparameters(writer, tiny)
    if tiny.tokenizer:
        _tokenizer(writer, tiny.vocab)
    for name, values in tiny_weights(tiny).items():
        dtype = DTYPES[tiny.dtype] if values.ndim == 2 else DTYPES["f32"]
        writer.add_tensor(name, gguf.quants.quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_weights(tiny: Tiny) -> dict[str, np.ndarray]:
    """The tensors of ``tiny`` before they are quantised, f32, by their GGUF names."""
    random = np.random.default_rng(tiny.seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    def norm() -> np.ndarray:
        return random.uniform(0.5, 1.5, tiny.width).astype(np.float32)

    queries, keys = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    weights = {"token_embd.weight": matrix(tiny.vocab, tiny.width)}
    for layer in range(tiny.layers):
        weights |= {
            f"blk.{layer}.attn_norm.weight": norm(),
            # A gain on q and k makes the softmax sharp, so that a wrong position shows in the logits.
            f"blk.{layer}.attn_q.weight": matrix(queries, tiny.width, gain=2.0),
            f"blk.{layer}.attn_k.weight": matrix(keys, tiny.width, gain=2.0),
            f"blk.{layer}.attn_v.weight": matrix(keys, tiny.width),
            f"blk.{layer}.attn_output.weight": matrix(tiny.width, queries),
            f"blk.{layer}.ffn_norm.weight": norm(),
            f"blk.{layer}.ffn_gate.weight": matrix(tiny.ff, tiny.width),
            f"blk.{layer}.ffn_up.weight": matrix(tiny.ff, tiny.width),
            f"blk.{layer}.ffn_down.weight": matrix(tiny.width, tiny.ff),
        }
    weights["output_norm.weight"] = norm()
    if not tiny.tied:
        weights["output.weight"] = matrix(tiny.vocab, tiny.width)
    return weights


def _hyperparameters(writer: gguf.GGUFWriter, tiny: Tiny) -> None:
    writer.add_name("tiny")
    writer.add_context_length(tiny.context_length)
    writer.add_embedding_length(tiny.width)
    writer.add_block_count(tiny.layers)
    writer.add_feed_forward_length(tiny.ff)
    writer.add_head_count(tiny.heads)
    writer.add_head_count_kv(tiny.kv_heads)
    writer.add_key_length(tiny.head_dim)
    writer.add_value_length(tiny.head_dim)
    writer.add_rope_dimension_count(tiny.head_dim)
    writer.add_rope_freq_base(tiny.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tiny.vocab)
    if tiny.scheme is not None:
        chunk_size, local_window, pretraining_length, *logit_scale = tiny.scheme
        writer.add_uint32("llama.attention.dca.chunk_size", chunk_size)
        writer.add_uint32("llama.attention.dca.local_window", local_window)
        writer.add_uint32("llama.attention.dca.pretraining_length", pretraining_length)
        if logit_scale:
            writer.add_float32("llama.attention.dca.logit_scale", logit_scale[0])
            writer.add_uint32("llama.attention.dca.logit_scale_length", int(logit_scale[1]))


def _tokenizer(writer: gguf.GGUFWriter, vocab: int) -> None:
    tokens = [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    types = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    if vocab < len(tokens):
        raise ValueError(f"a tiny model with a tokenizer needs vocab >= {len(tokens)}, got {vocab}")
    padding = vocab - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + [f"[PAD{index}]" for index in range(padding)])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * padding)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's byte-level BPE, by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]
