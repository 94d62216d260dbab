"""Writes GGUF files with random weights in the shape of published models, for speed and memory.

    python benchmarks/random_gguf.py llama-2-7b Q4_0 /tmp/llama-2-7b.Q4_0.gguf

A few megabytes of random weights are made and quantised once; every tensor is cut out of them at random
places by all cores at once, so that a file is written about as fast as the disk or memory takes it.
llama.cpp loads these files too.
"""

import argparse
import dataclasses
import math
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np

from dca_runtime.blocks import encode

POOL_VALUES = 1 << 24
ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT  # of tensors in the file
STANDARD_DEVIATION = 0.02  # of the weights: keeps activations of random models of these widths near 1


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a published model."""

    layers: int
    width: int
    ff: int  # of a mixture: of each expert
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    rope_base: float
    architecture: str = "llama"
    qkv_bias: bool = False
    head_norm: bool = False
    experts: int = 0  # 0: dense
    experts_used: int = 0


SHAPES = {
    "llama-2-7b": Shape(32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4),
    "llama-3-8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, 8192, 5e5),
    "llama-3-70b": Shape(80, 8192, 28672, 64, 8, 128, 128256, 8192, 5e5),
    "qwen2.5-7b": Shape(28, 3584, 18944, 28, 4, 128, 152064, 32768, 1e6, "qwen2", True),
    "tinyllama-1.1b": Shape(22, 2048, 5632, 32, 4, 64, 32000, 2048, 1e4),
    "mixtral-8x7b": Shape(32, 4096, 14336, 32, 8, 128, 32000, 32768, 1e6, experts=8, experts_used=2),
    "qwen3-30b-a3b": Shape(
        48, 2048, 768, 32, 4, 128, 151936, 40960, 1e6, "qwen3moe", head_norm=True, experts=128, experts_used=8
    ),
}


def write_random_gguf(
    path: Path,
    shape: Shape,
    dtype: gguf.GGMLQuantizationType,
    scheme: tuple[int, int, int] | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> None:
    """A file with all matrices in ``dtype``, but routers in F32.

    ``scheme`` is (chunk_size, local_window, pretraining_length). ``tokenizer`` is a GGUF file with a
    vocabulary no larger than the shape's: it is taken over and filled up with unused tokens.
    """
    random = np.random.default_rng(seed)
    values = random.standard_normal((POOL_VALUES // 4096, 4096), np.float32) * STANDARD_DEVIATION
    pool = encode(int(dtype), values).reshape(-1)
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[dtype]

    writer = gguf.GGUFWriter(path, shape.architecture)
    _hyperparameters(writer, shape, scheme)
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        _take_tokenizer(writer, gguf.GGUFReader(tokenizer), shape.vocab)
    tensors = list(_tensors(shape))
    for name, size in tensors:
        if _in_f32(name, size):
            n_bytes = 4 * math.prod(size)
            writer.add_tensor_info(name, size, np.dtype(np.float32), n_bytes, gguf.GGMLQuantizationType.F32)
        else:
            byte_shape = (*size[:-1], size[-1] // block_values * block_bytes)
            writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), math.prod(byte_shape), dtype)
    begin = _write_head(writer)

    lengths = [
        4 * math.prod(size) if _in_f32(name, size) else math.prod(size) // block_values * block_bytes
        for name, size in tensors
    ]
    offsets = np.cumsum([begin, *(gguf.GGUFWriter.ggml_pad(length, ALIGNMENT) for length in lengths)])
    _check_space(path, int(offsets[-1]))
    memory = np.memmap(path, np.uint8, "r+", shape=(int(offsets[-1]),))  # written by several threads at once
    pieces = []
    for (name, size), offset, length in zip(tensors, offsets, lengths, strict=False):
        place = memory[offset : offset + length]
        if "norm" in name:
            place.view(np.float32)[:] = 1.0
        elif _in_f32(name, size):
            scale = STANDARD_DEVIATION if len(size) > 1 else 1.0
            place.view(np.float32)[:] = random.standard_normal(math.prod(size), np.float32) * scale
        else:
            pieces += _cut(pool, place, block_bytes, random)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda piece: np.copyto(*piece), pieces))


def _write_head(writer: gguf.GGUFWriter) -> int:
    """Writes all but the tensors' data; returns where these begin."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    begin = gguf.GGUFWriter.ggml_pad(file.tell(), ALIGNMENT)
    writer.close()
    return begin


def _check_space(path: Path, size: int) -> None:
    """A file that is written through memory would end the process where the disk is full."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        sys.exit(f"{path} takes {size / 1e9:.1f} GB, {path.parent} has {free / 1e9:.1f} GB free")


def _in_f32(name: str, size: tuple[int, ...]) -> bool:
    return len(size) == 1 or "ffn_gate_inp" in name


def _cut(
    pool: np.ndarray, out: np.ndarray, block_bytes: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What is copied to fill ``out`` with whole blocks out of ``pool``, from a random one on, going round:
    pairs of a part of it and as much of the pool."""
    at = int(random.integers(len(pool) // block_bytes)) * block_bytes
    filled = 0
    while filled < len(out):
        piece = pool[at : at + len(out) - filled]
        yield out[filled : filled + len(piece)], piece
        filled += len(piece)
        at = 0


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab, shape.width)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", (shape.width,)
        for name, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield prefix + name + ".weight", (rows, shape.width)
            if shape.qkv_bias:
                yield prefix + name + ".bias", (rows,)
        if shape.head_norm:
            yield prefix + "attn_q_norm.weight", (shape.head_dim,)
            yield prefix + "attn_k_norm.weight", (shape.head_dim,)
        yield prefix + "attn_output.weight", (shape.width, queries)
        yield prefix + "ffn_norm.weight", (shape.width,)
        if shape.experts:
            yield prefix + "ffn_gate_inp.weight", (shape.experts, shape.width)
        stack, suffix = ((shape.experts,), "_exps") if shape.experts else ((), "")
        yield f"{prefix}ffn_gate{suffix}.weight", (*stack, shape.ff, shape.width)
        yield f"{prefix}ffn_up{suffix}.weight", (*stack, shape.ff, shape.width)
        yield f"{prefix}ffn_down{suffix}.weight", (*stack, shape.width, shape.ff)
    yield "output_norm.weight", (shape.width,)
    yield "output.weight", (shape.vocab, shape.width)


def _hyperparameters(writer: gguf.GGUFWriter, shape: Shape, scheme: tuple[int, int, int] | None) -> None:
    writer.add_name("random weights")
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.ff)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    if scheme is not None:
        for key, value in zip(("chunk_size", "local_window", "pretraining_length"), scheme, strict=True):
            writer.add_uint32(f"{shape.architecture}.attention.dca.{key}", value)


def _take_tokenizer(writer: gguf.GGUFWriter, source: gguf.GGUFReader, vocab: int) -> None:
    """Every ``tokenizer.*`` key of ``source``, its token lists filled up to ``vocab`` entries."""
    for name, field in source.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            value = value + [f"<|unused_{index}|>" for index in range(len(value), vocab)]
        elif name in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            value = value + [type(value[0])(gguf.TokenType.NORMAL)] * (vocab - len(value))
        subtype = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=subtype)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument(
        "dtype", help="F16, BF16, Q8_0, Q4_0, ...", type=lambda name: gguf.GGMLQuantizationType[name]
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--scheme", help="chunk_size,local_window,pretraining_length to write as well")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="GGUF", help="take over its tokenizer (for servers and texts)"
    )
    arguments = parser.parse_args()
    integers = arguments.scheme and tuple(int(text) for text in arguments.scheme.split(","))
    write_random_gguf(
        arguments.path, SHAPES[arguments.shape], arguments.dtype, integers, tokenizer=arguments.tokenizer
    )


if __name__ == "__main__":
    main()
