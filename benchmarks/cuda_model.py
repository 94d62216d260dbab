"""Whole models side by side on one GPU: ours, transformers' plain attention and three-call DCA, llama.cpp.

    python benchmarks/cuda_model.py --build build/cuda --llama-bench /path/to/llama-bench

builds the library, runs its GPU tests, writes random weights in a published shape (kept in --directory for
the next run), and times prefill and decode of every contender in one run: medians, beside the share of the
limit that the card's measured copy bandwidth and matrix rate set. transformers runs in bf16. The table comes
last.

    python benchmarks/cuda_model.py --shape llama-3-8b --types F16 --skip-transformers \\
        --devices cuda:0 cuda:0,1 --sequences 64 --longest

times ours on one card and on two that share the model, whose limit is twice one card's; many sequences at
once too, and how long a context there is room for.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import torch
from random_gguf import SHAPES, Shape, write_random_gguf

from dca_runtime.errors import DcaError

if TYPE_CHECKING:
    import dca_runtime as dca

ROOT = Path(__file__).resolve().parent.parent
SCHEME = (3072, 1024, 4096)
DECODED = 64  # tokens, of which the median counts; of many sequences each, of which the mean counts
MANY_PROMPT = 1024  # tokens of each of many sequences


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What this card was measured to do."""

    bytes_per_s: float  # device-to-device copy, read and written
    flop_per_s: float  # an 8192³ bf16 product of random matrices


@dataclasses.dataclass
class Result:
    """Tokens a second by length (prefill) or depth (decode)."""

    contender: str
    weights: str
    weight_bytes: int  # that a decoded token reads
    cards: int = 1  # that share the work
    prefill: dict[int, float] = dataclasses.field(default_factory=dict)
    decode: dict[int, float] = dataclasses.field(default_factory=dict)
    many: tuple[float, float] | None = None  # prefill and decode of many sequences, of all together
    longest: int | None = None  # tokens of a q8 cache that there is room for


def build(directory: Path) -> None:
    """Builds libdca with CUDA, makes dca_runtime use it, and runs the GPU tests; exits if that fails."""
    generator = ["-G", "Ninja"] if _has("ninja") else []
    subprocess.run(["cmake", "-S", ROOT, "-B", directory, *generator, "-DDCA_CUDA=ON"], check=True)
    subprocess.run(["cmake", "--build", directory, "--parallel", str(os.cpu_count())], check=True)
    os.environ["DCA_LIBRARY"] = str(directory.resolve() / "native" / "libdca.so")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/cuda"], cwd=ROOT)
    if tests.returncode != 0:
        sys.exit("the GPU tests failed; not timed")


def _has(program: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run([program, "--version"], capture_output=True).returncode == 0
    return False


def ceilings() -> Ceilings:
    source, target = (torch.empty(1 << 30, dtype=torch.int32, device="cuda").random_() for _ in range(2))
    copied = _seconds(lambda: target.copy_(source), 10)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    multiplied = _seconds(lambda: a @ b, 10)
    return Ceilings(2 * source.nbytes / copied, 2 * 8192**3 / multiplied)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def run_ours(path: Path, weights: str, device: str, arguments: argparse.Namespace) -> Iterator[Result]:
    import dca_runtime as dca

    start = time.perf_counter()
    with dca.Model(path, device=device) as model:
        print(
            f"ours: {path.name} loaded in {time.perf_counter() - start:.2f} s on {model.info.device}",
            flush=True,
        )
        context = max(*arguments.lengths, *(depth + 2 * DECODED for depth in arguments.depths))
        ids = np.random.default_rng(0).integers(0, model.info.n_vocab, context, np.int32)
        for attention in arguments.attentions:
            where = f", {device}" if len(arguments.devices) > 1 else ""
            result = Result(
                f"ours, {attention}{where}", weights, model.info.weight_bytes_used, device.count(",") + 1
            )
            scheme = SCHEME if attention == "dca" else None
            if arguments.longest:
                result.longest = longest_context(model, attention, scheme)
            if arguments.sequences:
                result.many = many_sequences(model, attention, arguments)
            with model.session(context, attention, scheme, arguments.cache_type) as session:

                def prefill(length: int, session=session) -> None:
                    session.truncate(0)
                    session.eval(ids[:length])

                def decode(depth: int, session=session) -> Iterator[float]:
                    session.truncate(min(depth, session.length))
                    if session.length < depth:
                        session.append(ids[session.length : depth])
                    for index in range(depth, depth + DECODED):
                        start = time.perf_counter()
                        session.eval(ids[index : index + 1])
                        yield time.perf_counter() - start

                _measure(result, prefill, decode, arguments)
            yield result


def longest_context(model: dca.Model, attention: str, scheme: tuple[int, int, int] | None) -> int:
    """Tokens of a session with a q8 cache, as the refusal of a longer one names them; it is opened."""
    import dca_runtime as dca

    options = {"attention": attention, "scheme": scheme, "cache_type": "q8"}
    try:
        model.session(1 << 30, **options).close()
        return 1 << 30
    except dca.DcaError as error:
        found = re.search(r"room for (\d+) tokens", str(error))
        if found is None:
            raise
    tokens = int(found[1])
    with model.session(tokens, **options) as session:
        session.eval([1, 2, 3])
    return tokens


def many_sequences(model: dca.Model, attention: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Tokens a second of all: their prompts, then their greedy steps."""
    from dca_runtime.measuring.bench_batches import measure_batches

    (result,) = measure_batches(
        model,
        [arguments.sequences],
        MANY_PROMPT,
        DECODED,
        repeats=arguments.repeats,
        attention="plain" if attention == "plain" else "auto",
        cache_type=arguments.cache_type,
    )
    return result.prefill_tokens_per_s, result.decode_tokens_per_s


def run_transformers(shape: Shape, arguments: argparse.Namespace) -> Iterator[Result]:
    from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

    from dca_export.reference.hf import patch
    from dca_export.scheme import Scheme

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        rope_theta=shape.rope_base,
    )
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
    embedding = 2 * shape.vocab * shape.width
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters()) - embedding
    ids = torch.randint(shape.vocab, (1, max(*arguments.lengths, *arguments.depths) + DECODED), device="cuda")

    def forward(tokens: torch.Tensor, cache: DynamicCache) -> None:
        with torch.inference_mode():
            model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()

    def prefill(length: int) -> None:
        forward(ids[:, :length], DynamicCache(config=config))

    def decode(depth: int) -> Iterator[float]:
        cache = DynamicCache(config=config)
        if depth:
            forward(ids[:, :depth], cache)
        for index in range(depth, depth + DECODED):
            start = time.perf_counter()
            forward(ids[:, index : index + 1], cache)
            yield time.perf_counter() - start

    for contender in ("transformers, plain", "transformers, three-call DCA"):
        three_calls = (
            patch(model, Scheme(*SCHEME), kernel="flash") if "DCA" in contender else contextlib.nullcontext()
        )
        with three_calls:
            result = Result(contender, "BF16", weight_bytes)
            _measure(result, prefill, decode, arguments)
        yield result


def run_llama_bench(
    program: Path, path: Path, weights: str, weight_bytes: int, arguments: argparse.Namespace
) -> Result:
    result = Result("llama.cpp, no DCA", weights, weight_bytes)
    tests = [("-p", length, 0) for length in arguments.lengths] + [
        ("-n", DECODED, depth) for depth in arguments.depths
    ]
    for option, tokens, depth in tests:
        other = {"-p": "-n", "-n": "-p"}[option]
        command = [
            program,
            "-m",
            path,
            option,
            tokens,
            other,
            0,
            "-d",
            depth,
            "-fa",
            1,
            "-ub",
            2048,
            "-ngl",
            99,
        ]
        command += ["-r", arguments.repeats, "-o", "json"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        rate = statistics.median(json.loads(done.stdout)[0]["samples_ts"])
        (result.prefill if option == "-p" else result.decode)[tokens if option == "-p" else depth] = rate
    return result


def _measure(
    result: Result,
    prefill: Callable[[int], None],
    decode: Callable[[int], Iterator[float]],
    arguments: argparse.Namespace,
) -> None:
    for length in arguments.lengths:
        prefill(length)
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            prefill(length)
            times.append(time.perf_counter() - start)
        result.prefill[length] = length / statistics.median(times)
    for depth in arguments.depths:
        result.decode[depth] = 1 / statistics.median(decode(depth))
    print(result, flush=True)
    gc.collect()
    torch.cuda.empty_cache()


def prefill_limit(shape: Shape, length: int, ceilings: Ceilings) -> float:
    """Tokens a second if matrices and causal attention ran at the measured matrix rate."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    ff = 3 * shape.ff * max(shape.experts_used, 1)
    matrices = 2 * shape.layers * shape.width * (2 * queries + 2 * keys + ff)
    attention = 2 * shape.layers * queries * length  # two products, half the square
    return ceilings.flop_per_s / (matrices + attention)


def decode_limit(
    shape: Shape, weight_bytes: int, depth: int, ceilings: Ceilings, cache_bytes: float
) -> float:
    """Tokens a second if weights and cache were read at the measured copy bandwidth."""
    cached = 2 * shape.layers * shape.kv_heads * shape.head_dim * cache_bytes * (depth + DECODED / 2)
    return ceilings.bytes_per_s / (weight_bytes + cached)


def print_table(results: list[Result], shape: Shape, limits: Ceilings, arguments: argparse.Namespace) -> None:
    columns = [f"prefill {length:,}" for length in arguments.lengths]
    columns += [f"decode after {depth:,}" for depth in arguments.depths]
    if arguments.sequences:
        columns += [f"{arguments.sequences} sequences, {kind}" for kind in ("prefill", "decode")]
    if arguments.longest:
        columns.append("longest context, q8")
    print(f"\n{torch.cuda.get_device_name()}: copy {limits.bytes_per_s / 1e9:,.0f} GB/s, ", end="")
    print(f"bf16 {limits.flop_per_s / 1e12:,.0f} TFLOP/s; {arguments.shape}, scheme {SCHEME}")
    print("tokens/s (share of the limit)")
    print(f"| contender | weights | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * len(columns))
    for result in results:
        cells = [
            f"{rate:,.0f} ({rate / result.cards / prefill_limit(shape, length, limits):.0%})"
            for length, rate in result.prefill.items()
        ]
        cache_bytes = 1.016 if arguments.cache_type == "q8" and result.contender.startswith("ours") else 2
        for depth, rate in result.decode.items():
            limit = result.cards * decode_limit(shape, result.weight_bytes, depth, limits, cache_bytes)
            cells.append(f"{rate:,.1f} ({rate / limit:.0%})")
        cells += [f"{rate:,.0f}" for rate in result.many or ()]
        cells += [f"{tokens:,}" for tokens in (result.longest,) if tokens is not None]
        print(f"| {result.contender} | {result.weights} | {' | '.join(cells)} |")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--types", default="F16,Q4_0", help="weight types of our files (default: F16,Q4_0)")
    parser.add_argument(
        "--lengths", type=_numbers, default=[8192, 32768], help="prefill (default: 8192,32768)"
    )
    parser.add_argument("--depths", type=_numbers, default=[0, 32768], help="decode (default: 0,32768)")
    parser.add_argument("--cache-type", default="f16", choices=("f16", "bf16", "q8"))
    parser.add_argument("--devices", nargs="+", default=["cuda"], help="ours on each (default: cuda)")
    parser.add_argument(
        "--attentions",
        nargs="+",
        default=["plain", "dca"],
        choices=("plain", "dca"),
        help="ours (default: both)",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sequences", type=int, help=f"ours with so many at once too ({MANY_PROMPT} + {DECODED} tokens)"
    )
    parser.add_argument("--longest", action="store_true", help="ours: the longest context too")
    parser.add_argument("--directory", type=Path, default=Path("/tmp"), help="for the random files")
    parser.add_argument("--build", type=Path, help="build and test the library here first")
    parser.add_argument(
        "--llama-bench", type=Path, help="llama.cpp's llama-bench, to time it on the same files"
    )
    parser.add_argument("--skip-transformers", action="store_true")
    arguments = parser.parse_args()

    if arguments.build:
        build(arguments.build)
    shape = SHAPES[arguments.shape]
    limits = ceilings()
    results = []
    for name in arguments.types.split(","):
        path = arguments.directory / f"{arguments.shape}.{name}.gguf"
        if not path.exists():
            write_random_gguf(path, shape, gguf.GGMLQuantizationType[name])
        for device in arguments.devices:
            try:
                results += run_ours(path, name, device, arguments)
            except DcaError as error:  # larger than one card, perhaps
                print(f"{name} on {device}: {error}", flush=True)
        if arguments.llama_bench:
            weight_bytes = results[-1].weight_bytes
            results.append(run_llama_bench(arguments.llama_bench, path, name, weight_bytes, arguments))
    if not arguments.skip_transformers:
        results += run_transformers(shape, arguments)
    print_table(results, shape, limits, arguments)


if __name__ == "__main__":
    main()
