"""Conversion beside llama.cpp's, in one run: wall time and peak memory, ours and theirs in turn.

    python benchmarks/conversion.py --converter convert_hf_to_gguf.py --quantize llama-quantize

A checkpoint in the shape of Llama 3.2 1B (BF16, 2.5 GB, Llama 3 scaling, tied, random weights and a made-up
tokenizer) is written first, in --directory, which needs room for three times as much. F16 and Q8_0 are
converted from it by `dca-export` and by llama.cpp's converter; Q4_K_M by `dca-export` from it and by
`llama-quantize` from the same weights as a BF16 GGUF file. Every round runs both, on the same processors.
Medians are printed, the ratio is the median of the rounds'. Peak memory is what the kernel counts as
resident, mapped pages of the input included. llama.cpp's converter needs torch, transformers and
sentencepiece in this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

WIDTH, HEADS, KV_HEADS, HEAD_DIM, FF = 2048, 32, 8, 64, 8192
SIZES = {"full": (16, 128256), "small": (4, 16000)}  # layers, vocabulary
POOL = 1 << 24  # random values that tensors are cut from


@dataclass(frozen=True)
class Run:
    """One command: seconds by the clock, MiB resident at most."""

    seconds: float
    mebibytes: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--converter", type=Path, metavar="PATH", help="convert_hf_to_gguf.py of llama.cpp")
    parser.add_argument("--quantize", type=Path, metavar="PATH", help="llama-quantize of llama.cpp")
    parser.add_argument("--size", choices=SIZES, default="full", help="small: for a try")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="processors both may use")
    parser.add_argument("--directory", type=Path, help="where files are made (default: a temporary one)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])  # commands inherit it

    with tempfile.TemporaryDirectory(dir=arguments.directory) as made:
        directory = Path(made)
        model = directory / "Random-Llama-1B"
        parameters = write_checkpoint(model, *SIZES[arguments.size])
        export = [Path(sys.executable).with_name("dca-export"), model, directory / "ours.gguf"]
        table = Table(
            title=f"{parameters / 1e9:.2f}B parameters, {arguments.threads} processors, "
            f"medians of {arguments.rounds}"
        )
        for heading in ("type", "ours", "llama.cpp", "ratio", "peak memory, ours", "llama.cpp", "ratio"):
            table.add_column(heading, justify="left" if heading == "type" else "right")
        for kind in ("f16", "q8_0"):
            if arguments.converter:
                other = [sys.executable, arguments.converter, model, "--outtype", kind]
                other += ["--outfile", directory / "theirs.gguf"]
                table.add_row(kind, *compare([*export, "--outtype", kind], other, directory, arguments))
        if arguments.quantize:
            source = directory / "bf16.gguf"
            run([*export[:2], source, "--outtype", "bf16"])
            other = [arguments.quantize, source, directory / "theirs.gguf", "Q4_K_M", arguments.threads]
            ours = [*export, "--outtype", "q4_k_m"]
            table.add_row("q4_k_m", *compare(ours, other, directory, arguments))
    Console(width=120).print(table)


def compare(ours: list, theirs: list, directory: Path, arguments: argparse.Namespace) -> list[str]:
    """The cells of one row; `ours` and `theirs` run in turn, and what they write is removed."""
    runs: list[tuple[Run, Run]] = []
    for _ in range(arguments.rounds):
        pair = []
        for command, name in ((ours, "ours.gguf"), (theirs, "theirs.gguf")):
            pair.append(run(command))
            (directory / name).unlink()
        runs.append((pair[0], pair[1]))
        print(f"{ours[-1]}: ours {pair[0]}, llama.cpp {pair[1]}", file=sys.stderr)
    cells = []
    for field, unit in (("seconds", "s"), ("mebibytes", "MiB")):
        pairs = [(getattr(a, field), getattr(b, field)) for a, b in runs]
        digits = 1 if unit == "s" else 0
        cells += [f"{statistics.median(side):,.{digits}f} {unit}" for side in zip(*pairs, strict=True)]
        cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
    return cells


def run(command: list) -> Run:
    """Runs it after all earlier output has reached the disk. A command that fails ends the benchmark."""
    os.sync()
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read()[-2000:].decode()}")
    return Run(seconds, usage.ru_maxrss / 1024)


def write_checkpoint(directory: Path, layers: int, vocab: int) -> int:
    """config.json, model.safetensors and tokenizer.model; returns the number of parameters."""
    directory.mkdir()
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": FF,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": scaling | {"original_max_position_embeddings": 8192},
        "tie_word_embeddings": True,
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(vocab))
    return write_weights(directory / "model.safetensors", shapes(layers, vocab))


def shapes(layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a tied Llama."""
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, WIDTH)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found |= {
            prefix + "input_layernorm.weight": (WIDTH,),
            prefix + "post_attention_layernorm.weight": (WIDTH,),
            prefix + "self_attn.q_proj.weight": (q, WIDTH),
            prefix + "self_attn.k_proj.weight": (kv, WIDTH),
            prefix + "self_attn.v_proj.weight": (kv, WIDTH),
            prefix + "self_attn.o_proj.weight": (WIDTH, q),
            prefix + "mlp.gate_proj.weight": (FF, WIDTH),
            prefix + "mlp.up_proj.weight": (FF, WIDTH),
            prefix + "mlp.down_proj.weight": (WIDTH, FF),
        }
    return found | {"model.norm.weight": (WIDTH,)}


def write_weights(path: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """BF16 values of a normal distribution, each tensor cut from one pool at its own place."""
    random = np.random.default_rng(0)
    values = random.standard_normal(POOL, np.float32) * np.float32(0.02)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            left = int(np.prod(shape))
            while left:
                start = int(random.integers(0, POOL // 2))
                piece = pool[start : start + left]
                file.write(piece.data)
                left -= piece.size
    return at // 2


def sentencepiece_model(vocab: int) -> bytes:
    """A BPE model of SentencePiece: unknown, bos, eos, the 256 bytes, and made-up words."""
    normal, unknown, control, byte = 1, 2, 3, 6
    pieces = [("<unk>", 0.0, unknown), ("<s>", 0.0, control), ("</s>", 0.0, control)]
    pieces += [(f"<0x{value:02X}>", 0.0, byte) for value in range(256)]
    pieces += [(f"\u2581w{rank}", -float(rank), normal) for rank in range(vocab - len(pieces))]
    body = b""
    for text, score, kind in pieces:
        encoded = text.encode()
        piece = b"\x0a" + bytes([len(encoded)]) + encoded + b"\x15" + struct.pack("<f", score)
        piece += b"\x18" + bytes([kind])
        body += b"\x0a" + bytes([len(piece)]) + piece
    trainer = b"\x18\x02" + b"\x98\x02\x01"  # model_type BPE, byte_fallback
    return body + b"\x12" + bytes([len(trainer)]) + trainer


if __name__ == "__main__":
    main()
