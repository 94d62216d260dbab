"""Attention kernels side by side on one GPU: ours against PyTorch's and against DCA as published.

    python benchmarks/cuda_attention.py --build build/cuda_attention

compiles the kernels, checks them against float64 on random cases, then times, on the same tensors in one
run, our plain causal attention and our Dual Chunk Attention, PyTorch's FlashAttention-2 and cuDNN's kernel,
and DCA as published (Algorithm 1: three flash attentions per chunk, merged by their log-sum-exps). Medians;
prefill figures count the causal half of the two products, decode figures the bytes of the cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

TESTS = Path(__file__).resolve().parents[1] / "tests/cuda"
sys.path[:0] = [str(TESTS / "attention"), str(TESTS)]

from attention_arguments import PAGE_TOKENS, TORCH_DTYPES, PositionScheme, Shape  # noqa: E402
from attention_check import Case, check_all, reference, row_errors  # noqa: E402
from attention_library import AttentionLibrary  # noqa: E402
from attention_problem import Problem  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Setting:
    n_heads: int
    n_kv_heads: int
    head_dim: int
    length: int
    chunk_size: int

    @property
    def shape(self) -> Shape:
        return Shape(self.n_heads, self.n_kv_heads, self.head_dim)

    @property
    def scheme(self) -> PositionScheme:
        pretraining_length = self.chunk_size * 4 // 3
        return PositionScheme(self.chunk_size, pretraining_length - self.chunk_size, pretraining_length)

    @property
    def label(self) -> str:
        return f"{self.n_heads}/{self.n_kv_heads}, {self.head_dim}, {self.length:,}, s = {self.chunk_size:,}"


PREFILL = (
    Setting(32, 32, 128, 16384, 3072),
    Setting(32, 32, 128, 32768, 3072),
    Setting(32, 8, 128, 32768, 3072),
    Setting(32, 8, 128, 131072, 24576),
    Setting(32, 8, 64, 32768, 3072),
    Setting(32, 32, 96, 32768, 3072),
    Setting(32, 32, 80, 32768, 3072),
)
DECODE = (
    Setting(32, 32, 128, 32768, 3072),
    Setting(32, 8, 128, 32768, 3072),
    Setting(32, 8, 128, 131072, 24576),
    Setting(32, 32, 128, 1024, 3072),
    Setting(32, 32, 128, 200, 3072),
    Setting(32, 8, 128, 4096, 3072),
    Setting(9, 3, 64, 8192, 3072),
)


DECODE_MANY = (
    tuple(  # many rows in one step: of how many sequences, and how many that share all pages of each
        (Setting(32, 8, 128, length, 3072), sequences, sharers)
        for length, sequences, sharers in (
            (1056, 4, 1),
            (1056, 16, 1),
            (1056, 64, 1),
            (1056, 128, 1),
            (16384, 8, 1),
            (16384, 16, 1),
            (16384, 1, 16),
        )
    )
)

WARM_MS = 150  # power limits act over tens of milliseconds


def elapsed_ms(run: Callable[[], object]) -> float:
    """One run by CUDA events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def median_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians. The runs take turns, and each heats the card for itself first: at the power limit, a run's
    speed depends on what ran before it."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            warm = 0.0
            while warm < WARM_MS:
                warm += elapsed_ms(run)
            times[name].append(elapsed_ms(run))
    return {name: statistics.median(ms) for name, ms in times.items()}


def sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: SDPBackend
) -> Callable[[], torch.Tensor]:
    """Causal attention by one PyTorch backend; q (1, heads, n, head_dim), k and v with fewer heads."""

    shared = q.shape[1] != k.shape[1]

    def run() -> torch.Tensor:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=shared
            )

    return run


def flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """FlashAttention-2 with its log-sum-exps; (1, n, heads, head_dim) each, f32 (1, heads, n)."""
    lengths = q.shape[1], k.shape[1]
    out, log_sum_exp, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, *lengths, 0.0, causal, False
    )
    return out, log_sum_exp


def published_dca(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk: int) -> torch.Tensor:
    """Algorithm 1's calls and merge for (1, n, heads, head_dim); q stands for all its three rotations, which
    are not counted."""
    outs = []
    for begin in range(0, q.shape[1], chunk):
        own = q[:, begin : begin + chunk]
        parts = [flash(own, k[:, begin : begin + chunk], v[:, begin : begin + chunk], True)]
        if begin >= chunk:
            parts.append(flash(own, k[:, begin - chunk : begin], v[:, begin - chunk : begin], False))
        if begin >= 2 * chunk:
            parts.append(flash(own, k[:, : begin - chunk], v[:, : begin - chunk], False))
        weights = torch.softmax(torch.stack([log_sum_exp for _, log_sum_exp in parts]), dim=0)
        weights = weights.transpose(2, 3)[..., None]
        merged = sum(weight * out for weight, (out, _) in zip(weights, parts, strict=True))
        outs.append(merged.to(q.dtype))
    return torch.cat(outs, dim=1)


def time_prefill(
    library: AttentionLibrary, setting: Setting, dtype: str, repeats: int, kernels: tuple[str, ...]
) -> dict[str, float]:
    """Milliseconds by name; sampled rows of each of our kernels are compared with float64 first."""
    runs: dict[str, Callable[[], object]] = {}
    n = setting.length
    caches = (
        ("DCA q8", setting.scheme, "q8"),
        ("DCA", setting.scheme, dtype),
        ("plain", PositionScheme(), dtype),
    )
    for name, scheme, cache in caches:
        problem = Problem(
            library, setting.shape, scheme, n, dtype, cache, dequantized_kv_heads=setting.n_kv_heads
        )
        rows = sorted({0, setting.chunk_size - 1, setting.chunk_size, n // 2 + 77, n - 1})
        sample = torch.tensor(rows, device="cuda")
        expected = reference(problem, sample)
        for kernel in kernels:
            out = torch.full_like(problem.q[0], math.nan)
            if not problem.prefill(0, n, out, kernel):
                continue
            error = row_errors(out[sample], expected).max().item()
            case = Case(setting.shape, scheme, 0, n, (), dtype, cache, 0)
            if out.isnan().any() or not error < case.tolerance:
                raise AssertionError(f"{kernel} {name} {setting.label}: worst sampled row {error:.2e}")
            runs[f"{name} {kernel}"] = lambda p=problem, o=out, k=kernel: p.prefill(0, n, o, k)
    q = problem.q[0].transpose(0, 1)[None].contiguous()
    k, v = (problem.gathered(t, 0)[None].contiguous() for t in (problem.keys, problem.values))
    by_token = [t.transpose(1, 2).contiguous() for t in (q, k, v)]
    others: dict[str, Callable[[], object]] = {
        "FA-2": sdpa(q, k, v, SDPBackend.FLASH_ATTENTION),
        "cuDNN": sdpa(q, k, v, SDPBackend.CUDNN_ATTENTION),
        "three calls": lambda: published_dca(*by_token, setting.chunk_size),
    }
    for name, run in others.items():
        try:
            run()
        except RuntimeError as error:  # a backend that does not take this shape
            print(f"{name}, {setting.label}: {str(error).splitlines()[0]}")
        else:
            runs[name] = run
    return median_ms(runs, repeats)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a large copy on the device."""
    source = torch.empty(2**32, device="cuda", dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    ms = median_ms({"copy": lambda: target.copy_(source)}, 10)["copy"]
    return 2 * source.numel() / (ms / 1e3)


def time_decode(
    library: AttentionLibrary, setting: Setting, cache: str, sequences: int, sharers: int
) -> tuple[float, float]:
    """Microseconds of one step, and the cache's bytes that all rows see (shared ones once for each): a CUDA
    graph over enough caches to defeat L2."""
    bytes_per_row = {"q8": setting.head_dim + 2, "q4": setting.head_dim // 2 + 8}.get(
        cache, 2 * setting.head_dim
    )
    bytes_per_step = 2 * sequences * setting.n_kv_heads * setting.length * bytes_per_row
    dtype = "f16" if cache in ("q8", "q4") else cache
    problems = [
        Problem(
            library,
            setting.shape,
            setting.scheme,
            (setting.length,) * sequences,
            dtype,
            cache,
            seed=n,
            decode_rows=sequences * sharers,
        )
        for n in range(max(1, math.ceil(256e6 / bytes_per_step)))
    ]
    newest: list[tuple[int, int] | None] = [(n, setting.length - 1) for n in range(sequences)] * sharers
    most, groups = problems[0].most_group_rows(), None
    if min(sharers, most) > 1:
        shared = (setting.length - 1) // PAGE_TOKENS * PAGE_TOKENS
        of_sequence = [list(range(n, sequences * sharers, sequences)) for n in range(sequences)]
        groups = [(shared, same[n : n + most]) for same in of_sequence for n in range(0, sharers, most)]
    rows = [problem.decode_rows(newest, groups) for problem in problems]
    out = torch.empty_like(rows[0].q)
    for problem, own in zip(problems, rows, strict=True):
        problem.decode(own, out)
    torch.cuda.synchronize()
    steps = max(8, len(problems))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for n in range(steps):
            problems[n % len(problems)].decode(rows[n % len(problems)], out)
    return median_ms({"graph": graph.replay}, 5)["graph"] * 1e3 / steps, bytes_per_step * sharers


def print_tables(
    prefill: list[tuple[Setting, dict[str, float]]],
    decode: list[tuple[Setting, int, int, str, float, float]],
    kernel: str,
    bandwidth: float,
) -> None:
    """Prefill in ms by name, ratios for our ``kernel``; decode as (setting, sequences, sharers,
    cache, microseconds, bytes)."""
    ratios = ("FA-2", "cuDNN", "three calls", f"plain {kernel}")
    print(
        "\nPrefill (heads / kv heads, head size, length, chunk), TFLOP/s; ratios are DCA's to the others'\n"
    )
    print(
        f"| setting | by kernel | {' | '.join('to ' + name for name in ratios)} |\n|---|---|---|---|---|---|"
    )
    for setting, ms in prefill:
        flop = 2 * setting.length**2 * setting.head_dim * setting.n_heads
        speeds = ", ".join(f"{name} {flop / t / 1e9:.0f}" for name, t in ms.items())
        own = ms[f"DCA {kernel}"]
        to_others = " | ".join(f"{ms[name] / own:.3f}" if name in ms else "" for name in ratios)
        print(f"| {setting.label} | {speeds} | {to_others} |")
    print(f"\nDecode; copying on this card moves {bandwidth / 1e12:.2f} TB/s, read and written\n")
    print("| setting | sequences | sharers | cache | us a step | TB/s | of copying |")
    print("|---|---|---|---|---|---|---|")
    for setting, sequences, sharers, cache, us, size in decode:
        speed = size / (us / 1e6)
        figures = f"{us:.1f} | {speed / 1e12:.2f} | {speed / bandwidth:.2f}"
        print(f"| {setting.label} | {sequences} | {sharers} | {cache} | {figures} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--build", type=Path, metavar="DIRECTORY", help="compile the kernels there")
    source.add_argument("--library", type=Path, help="take a library built before")
    parser.add_argument(
        "--targets", nargs="+", default=["80", "90a"], help="with --build: as nvcc names them"
    )
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument(
        "--kernels", nargs="+", default=["auto"], help="our prefill kernels: auto, sm80, sm90, simple"
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--check", type=int, default=40, help="random cases to check first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--settings", type=int, nargs="*", help="indices of the prefill settings; default all"
    )
    args = parser.parse_args()

    if args.build:
        library = AttentionLibrary.build(args.build, tuple(args.targets))
    else:
        library = AttentionLibrary(args.library)
    if args.check:
        print(check_all(library, args.seed, args.check))

    bandwidth = copy_bandwidth()
    settings = PREFILL if args.settings is None else [PREFILL[n] for n in args.settings]
    prefill = [(s, time_prefill(library, s, args.dtype, args.repeats, tuple(args.kernels))) for s in settings]
    decode = [
        (s, sequences, sharers, c, *time_decode(library, s, c, sequences, sharers))
        for s, sequences, sharers in (*((s, 1, 1) for s in DECODE), *DECODE_MANY)
        for c in (args.dtype, "q8", "q4")
    ]
    versions = f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    print(f"\n{torch.cuda.get_device_name()}, {versions}, {args.dtype}, medians of {args.repeats}")
    print_tables(prefill, decode, args.kernels[0], bandwidth)


if __name__ == "__main__":
    main()
