"""Sparse prefill on one GPU: what choosing costs, what attention at a density costs, and a whole long prompt.

    python benchmarks/cuda_sparse.py kernels --library build/cuda_attention
    python benchmarks/cuda_sparse.py stated --library build/cuda_attention
    python benchmarks/cuda_sparse.py prompt llama-3-8b.Q8_0.gguf --tokens 1000000 --density 0.05

Random keys have no pages worth choosing, so the density is forced: the queries choose as always (that is
timed), and then so many pages are drawn at random, the same for the 128 queries of a page, each head its own.
No option of the runtime does that; `prompt` asks libdca_cuda for it by the name that it exports for this
program (native/cuda/step/sparse_prefill.h).

`stated` times stated budgets for the last queries of such a context. Columns and diagonals of random keys lie
scattered over all pages, which is the worst there is; a budget of the sinks and the nearest diagonals alone,
which come first in any case, is the best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from attention_library import AttentionLibrary

ROOT = Path(__file__).resolve().parents[1]
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def attention_kernels(directory: Path) -> AttentionLibrary:
    """The kernels that were compiled into ``directory``; compiles them where there are none."""
    from attention_library import AttentionLibrary

    if (directory / AttentionLibrary.FILE).exists():
        return AttentionLibrary(directory / AttentionLibrary.FILE)
    return AttentionLibrary.build(directory)


def kernels(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of choosing and of attention at each density beside dense attention, of one layer."""
    import torch
    from cuda_attention import Setting, median_ms

    sys.path[:0] = [str(ROOT / "tests/cuda/attention"), str(ROOT / "tests/cuda")]
    from attention_problem import Problem
    from sparse_library import Selection

    library = attention_kernels(arguments.library)
    setting = Setting(32, 8, 128, arguments.tokens, arguments.chunk)
    n, found = setting.length, {}
    print(f"{torch.cuda.get_device_name()}, {setting.label}, medians of {arguments.repeats}")
    for cache in arguments.caches.split(","):
        problem = Problem(
            library,
            setting.shape,
            setting.scheme,
            n,
            "bf16" if cache == "bf16" else "f16",
            cache,
            dequantized_kv_heads=setting.n_kv_heads,
        )
        out = torch.empty_like(problem.q[0])
        choosing = Selection(problem, 0, n)
        choosing.make_means()
        runs = {
            "dense": lambda p=problem, o=out: p.prefill(0, n, o),
            "means": choosing.make_means,
            "choosing": lambda s=choosing: s.select(0.03),
        }
        forced = {}
        for share in DENSITIES:
            forced[share] = selection = Selection(problem, 0, n)
            selection.means = choosing.means
            selection.select(0.03, share)
            runs[f"{share}"] = lambda s=selection, o=out: s.attend(o)
        densities = {share: selection.read_pairs() for share, selection in forced.items()}
        ms = median_ms(runs, arguments.repeats)
        dense = ms["dense"]
        flop = 2 * n**2 * setting.head_dim * setting.n_heads
        print(f"\n{cache} cache: dense {dense:.1f} ms ({flop / dense / 1e9:.0f} TFLOP/s), ", end="")
        print(f"means {ms['means']:.2f} ms, choosing {ms['choosing']:.2f} ms: {ms['choosing'] / dense:.2%}")
        print("| forced | density d | attention, ms | of dense | 1.15 d + 0.05 |\n|---|---|---|---|---|")
        for share, density in densities.items():
            took, bound = ms[f"{share}"], 1.15 * density + 0.05
            print(f"| {share} | {density:.4f} | {took:.2f} | {took / dense:.4f} | {bound:.4f} |")
        found[cache] = {"ms": ms, "densities": densities}
        del problem, choosing, forced, runs, out
        torch.cuda.empty_cache()
    return found


def stated(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of choosing by stated budgets and of attention to that beside dense, of one layer."""
    import torch
    from cuda_attention import Setting, median_ms

    sys.path[:0] = [str(ROOT / "tests/cuda/attention"), str(ROOT / "tests/cuda")]
    from attention_problem import Problem
    from stated_library import Lines

    library = attention_kernels(arguments.library)
    setting = Setting(32, 8, 128, arguments.tokens, arguments.chunk)
    n, queries, found = setting.length, arguments.queries, {}
    print(f"{torch.cuda.get_device_name()}, {setting.label}, the last {queries:,} queries")
    for cache in arguments.caches.split(","):
        problem = Problem(
            library, setting.shape, setting.scheme, n, "f16", cache, dequantized_kv_heads=setting.n_kv_heads
        )
        out = torch.empty_like(problem.q[0][-queries:])
        runs = {"dense": lambda p=problem, o=out: p.prefill(n - queries, queries, o)}
        made = {}
        for text in arguments.budgets.split(","):
            columns, diagonals = map(int, text.split("+"))
            budgets = [(columns, diagonals)] * setting.n_heads
            made[text] = lines = Lines(problem, n - queries, queries, 64, budgets, setting.n_heads)
            lines.choose()
            runs[f"choosing {text}"] = lines.choose
            runs[f"attention {text}"] = lambda of=lines, o=out: of.attend(o)
        pages = {text: lines.blocks[..., 3].float().mean().item() for text, lines in made.items()}
        ms = median_ms(runs, arguments.repeats)
        print(f"{cache} cache: dense {ms['dense']:.2f} ms")
        for text, listed in pages.items():
            took = [ms[f"{what} {text}"] for what in ("choosing", "attention")]
            print(f"  {text}: {listed:.0f} of {n // 128} pages; choosing {took[0]:.2f} ms, ", end="")
            print(f"attention {took[1]:.2f} ms, {took[1] / ms['dense']:.3f} of dense", flush=True)
        found[cache] = {"ms": ms, "pages": pages}
        del problem, made, runs, out
        torch.cuda.empty_cache()
    return found


def force_density(share: float) -> None:
    """Lets engines on CUDA devices that are made from here on read this share of all pages."""
    import cffi

    from dca_runtime import _ffi

    ffi = cffi.FFI()
    ffi.cdef("void dca_cuda_force_density(float share);")
    ffi.dlopen(str(Path(_ffi._library()).with_name("libdca_cuda.so"))).dca_cuda_force_density(share)


def prompt(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a whole prompt, piece by piece, then of decoding after it."""
    import dca_runtime as dca

    limit = None
    if not arguments.no_limit:
        from cuda_model import ceilings

        limit = ceilings().bytes_per_s
        import torch

        torch.cuda.empty_cache()
    options: dict[str, Any] = {"cache_type": arguments.cache_type}
    with dca.Model(arguments.model, device="cuda") as model:
        if arguments.density is not None:
            force_density(arguments.density)
            options["prefill"] = "sparse"
        scheme = [int(part) for part in arguments.scheme.split(",")]
        context = arguments.tokens + arguments.decoded + 1
        ids = np.random.default_rng(0).integers(0, model.info.n_vocab, arguments.tokens, np.int32)
        with model.session(context, "dca", scheme, **options) as session:
            gb = (session.info.cache_bytes / 1e9, session.info.scratch_bytes / 1e9)
            print(f"{model.info.device}: {gb[0]:.1f} GB of cache, {gb[1]:.1f} GB of work space", flush=True)
            session.append(ids[: min(8192, len(ids))])  # the first step loads kernels
            session.truncate(0)
            begin = last = time.perf_counter()
            for at in range(0, arguments.tokens, arguments.piece):
                piece = ids[at : at + arguments.piece]
                if at + len(piece) == arguments.tokens:
                    session.eval(piece)
                else:
                    session.append(piece)
                now = time.perf_counter()
                speed = len(piece) / (now - last)
                print(
                    f"{at + len(piece):>9,} tokens: {now - begin:6.2f} s, {speed:8,.0f} tokens/s", flush=True
                )
                last = now
                if arguments.seconds is not None and now - begin > arguments.seconds:
                    print(f"stopped after {arguments.seconds} s", flush=True)
                    break
            prefill_s, read = time.perf_counter() - begin, session.length
            found = {"prefill_s": prefill_s, "tokens": read, "density": None}
            if session.info.density is not None:
                heads = np.array(session.info.density).ravel()
                found["density"] = float(np.nanmean(heads))
                low, high = np.nanmin(heads), np.nanmax(heads)
                print(f"density: mean {found['density']:.4f}, of heads {low:.4f} to {high:.4f}")
            times = []
            for _ in range(arguments.decoded):
                start = time.perf_counter()
                session.eval([int(ids[0])])
                times.append(time.perf_counter() - start)
            found["decode_s"] = statistics.median(times)
            n_bytes = model.info.weight_bytes_used + session.info.cache_bytes * read / context
            found["decode_bytes"] = n_bytes
            share = "" if limit is None else f" ({n_bytes / limit / found['decode_s']:.1%} of copying's rate)"
            print(
                f"{read:,} tokens in {prefill_s:.2f} s; then {1 / found['decode_s']:.1f} tokens/s, "
                f"{n_bytes / found['decode_s'] / 1e9:,.0f} GB/s{share}",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("kernels", help="one layer's choosing and attention")
    one.add_argument("--library", type=Path, required=True, help="compile the kernels there, or take them")
    one.add_argument("--tokens", type=int, default=131072)
    one.add_argument("--chunk", type=int, default=24576)
    one.add_argument("--caches", default="f16,q8")
    one.add_argument("--repeats", type=int, default=3)
    one.set_defaults(run=kernels)
    lines = commands.add_parser("stated", help="the same by stated budgets")
    lines.add_argument("--library", type=Path, required=True, help="compile the kernels there, or take them")
    lines.add_argument("--tokens", type=int, default=131072)
    lines.add_argument("--chunk", type=int, default=24576)
    lines.add_argument("--queries", type=int, default=8192)
    lines.add_argument(
        "--budgets", default="30+100,1000+6096", help="columns+diagonals of every head, a list"
    )
    lines.add_argument("--caches", default="f16,q8")
    lines.add_argument("--repeats", type=int, default=3)
    lines.set_defaults(run=stated)
    whole = commands.add_parser("prompt", help="a whole model's prefill, and decoding after it")
    whole.add_argument("model", type=Path, help="a GGUF file; benchmarks/random_gguf.py writes one")
    whole.add_argument("--tokens", type=int, default=1_000_000)
    whole.add_argument("--density", type=float, help="forced; default: dense prefill")
    whole.add_argument("--scheme", default="6144,2048,8192")
    whole.add_argument("--cache-type", default="q8")
    whole.add_argument("--piece", type=int, default=65536, help="tokens of a call")
    whole.add_argument("--decoded", type=int, default=32)
    whole.add_argument("--seconds", type=float, help="stop prefill after so many")
    whole.add_argument("--no-limit", action="store_true", help="do not measure the card's copy rate")
    whole.set_defaults(run=prompt)
    arguments = parser.parse_args()
    found = arguments.run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
