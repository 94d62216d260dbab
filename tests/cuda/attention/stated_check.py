"""Checks of stated budgets' kernels against float64, written from docs/sparse.md and sharing no code."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from attention_arguments import PositionScheme, Shape, Traits
from attention_check import Case, make_problem, reference, rotate, row_errors
from attention_library import AttentionLibrary
from attention_problem import Problem
from stated_library import Budget, Lines

SINKS, LOCAL = 30, 100  # columns, and diagonals, that come before all others
QUARTER = 32  # queries that read together

# A line that only one side chose must be a tie: its weight within this of the least that is chosen, as |log2|
# of their ratio. The kernel rounds queries and keys to 11 bits: a score of 4 moves by about 2e-3.
TIE = 0.03


def stated_cases(seed: int, count: int, longest: int = 2600) -> Iterator[tuple[Case, int, list[Budget]]]:
    """Random shapes, schemes and units, each with how many queries choose and every head's budget."""
    draw = random.Random(seed)
    for n in range(count):
        n_kv_heads = draw.choice((1, 2))
        head_dim = (64, 80, 96, 128, 256)[n % 5]
        shape = Shape(
            n_kv_heads * draw.choice((1, 2, 4)),
            n_kv_heads,
            head_dim,
            draw.choice((None, None, head_dim // 2 // 8 * 8)),
            draw.random() < 0.5,
        )
        border = draw.choice((64, 100, 129, 200, 512, 777, 1024))
        window = draw.randrange(border)
        a = draw.choice((0.0, 0.0, 0.1))
        last = border + window + draw.choice((1, border))
        scheme = PositionScheme(border, window, last, draw.random() < 0.1, a, 64 if a else 0)
        if draw.random() < 0.25:
            scheme, border = PositionScheme(), longest
        start = draw.randrange(max(1, longest // border)) * border + draw.choice((0, draw.randrange(border)))
        left = min(border - start % border, longest - start)
        n_queries = draw.choice((left, draw.randint(1, left)))
        dtype = draw.choice(("f16", "bf16"))
        cache = draw.choice((dtype, "f16", "bf16", "q8", "q4" if head_dim % 32 == 0 else "q8"))
        traits = Traits(0, draw.choice((0.0, 0.0, 3.0)), draw.random() < 0.3)
        others = (draw.randrange(1, 500),)
        budgets = [
            (draw.choice((0, 5, 30, 64, 300, 1 << 20)), draw.choice((1, 60, 100, 130, 400, 1 << 20)))
            for _ in range(shape.n_heads)
        ]
        case = Case(shape, scheme, start, n_queries, others, dtype, cache, 1000 * seed + n, traits)
        yield case, draw.choice((1, 16, 64, 65, 200)), budgets


def line_weights(
    problem: Problem, start: int, stop: int, choosing: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(n_heads, keys) each: weights of columns, from the first key seen on, and of diagonals; that key."""
    shape, scheme = problem.shape, problem.scheme
    s, chunk = scheme.chunk_size, start // scheme.chunk_size
    first = chunk * s if scheme.intra_only else 0
    i = torch.arange(stop - choosing, stop, device="cuda")
    key = torch.arange(first, stop, device="cuda")
    keys = problem.cache_as_float64(0, problem.fresh_page(start))[0][:, first:stop]
    gap = (chunk - key // s).clamp(max=2)
    logits = torch.full((shape.n_heads, len(i), len(key)), -torch.inf, device="cuda", dtype=torch.float64)
    for kind, offset in enumerate((0, s, scheme.pretraining_length - 1)):
        if not (gap == kind).any():
            continue
        q = rotate(problem.q[0][i].double(), offset + i % s, problem).unflatten(1, (shape.n_kv_heads, -1))
        own = torch.einsum("nkgd,kjd->kgnj", q, keys).flatten(0, 1)
        logits = torch.where(gap == kind, own, logits)
    if scheme.logit_scale:
        m = scheme.logit_scale * torch.log((i.double() + 1) / scheme.logit_scale_length) + 1
        logits *= torch.clamp(m, min=1)[:, None] ** 2
    distance = i[:, None] - key
    weights = (logits / shape.head_dim**0.5).masked_fill(distance < 0, -torch.inf).softmax(dim=-1)
    diagonals = torch.zeros_like(weights[:, 0])
    for row in range(len(i)):
        diagonals.index_add_(1, distance[row].clamp(min=0), weights[:, row])
    return weights.sum(dim=1), diagonals, first


def check_heaviest(weights: torch.Tensor, forced: int, budget: int, found: list[int], what: str) -> float:
    """AssertionError unless ``found`` are the heaviest of (n,) weights, ties aside; the farthest tie."""
    assert len(found) == min(budget, len(weights)), f"{what}: {len(found)} chosen"
    order = weights.clone()
    order[:forced] = torch.inf
    expected = torch.sort(order, descending=True, stable=True).indices[:budget].tolist()
    farthest = 0.0
    for line in set(found) ^ set(expected):
        assert line >= forced, f"{what}: {line} comes before all others"
        margin = abs(float(torch.log2(weights[line] / order[expected[-1]])))
        assert margin <= TIE, f"{what}: {line} is no tie: {margin:.3g}"
        farthest = max(farthest, margin)
    return farthest


def read_mask(problem: Problem, lines: Lines) -> torch.Tensor:
    """(n_heads, queries, tokens) bool: which keys each query reads of those before it, by its block of 32."""
    start, stop = lines.start, lines.start + lines.n_queries
    read = torch.zeros((problem.shape.n_heads, stop - start, problem.lengths[0]), dtype=torch.bool)
    for head in range(problem.shape.n_heads):
        read[head, :, lines.chosen(lines.columns, head)] = True
        distances = torch.tensor(lines.chosen(lines.diagonals, head))
        at = start
        while at < stop:
            until = min(stop, (at // QUARTER + 1) * QUARTER)
            for query in range(at, until):
                keys = query - distances
                read[head, at - start : until - start, keys[keys >= 0]] = True
            at = until
    return read.cuda()


def check_stated(
    library: AttentionLibrary,
    case: Case,
    last_queries: int,
    budgets: list[Budget],
    kernels: tuple[str, ...] = ("sm80", "sm90"),
) -> dict[str, float]:
    """Figures by name; AssertionError where something is wrong."""
    problem = make_problem(library, case)
    start, stop = case.start, case.start + case.n_queries
    lines = Lines(problem, start, case.n_queries, last_queries, budgets, 1 + case.seed % case.shape.n_heads)
    assert lines.choose()
    columns, diagonals, first = line_weights(problem, start, stop, min(last_queries, case.n_queries))
    figures = {"tie": 0.0}
    for head, budget in enumerate(budgets):
        for weights, bits, forced, base, count, name in (
            (columns, lines.columns, max(SINKS - first, 0), first, budget[0], "columns"),
            (diagonals, lines.diagonals, LOCAL, 0, budget[1], "diagonals"),
        ):
            found = [line - base for line in lines.chosen(bits, head)]
            tie = check_heaviest(weights[head], forced, count, found, f"{case}: {name} of head {head}")
            figures["tie"] = max(figures["tie"], tie)

    read = read_mask(problem, lines)
    indices = torch.arange(start, stop, device="cuda")
    key = torch.arange(problem.lengths[0], device="cuda")
    seen = (key <= indices[:, None]) & (key >= first)
    unread = (seen & ~read).sum(dim=(1, 2))
    assert torch.equal(unread, lines.unread), f"{case}: {unread} {lines.unread}"
    figures["density"] = 1 - float(unread.double().mean()) / float(seen.sum())

    expected = reference(problem, indices, 0, read)
    for kernel in kernels:
        size = (case.n_queries, 2 * case.shape.n_heads, case.shape.head_dim)
        canvas = torch.full(size, torch.nan, device="cuda", dtype=problem.q[0].dtype)
        out = canvas[:, : case.shape.n_heads]
        if not lines.attend(out, kernel):
            continue
        errors = row_errors(out, expected)
        bad = (~(errors <= case.tolerance)).nonzero()
        assert not len(bad), f"{kernel}: {case}: (query, head) {bad[:6].tolist()}, {errors.max():.2e}"
        assert canvas[:, case.shape.n_heads :].isnan().all(), f"{kernel}: {case}: wrote past its rows"
        figures[kernel] = errors.max().item() / case.tolerance
    return figures
