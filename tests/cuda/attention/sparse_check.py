"""Checks of sparse prefill's kernels against float64, written from docs/sparse.md and sharing no code."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from attention_arguments import PAGE_TOKENS, PositionScheme, Shape, Traits
from attention_check import ROUNDOFF, Case, make_problem, reference, rotate, row_errors
from attention_library import AttentionLibrary
from attention_problem import Problem
from sparse_library import QUARTER, ListedBlock, Selection

SINKS, LOCAL = 2, 4  # pages that are read in any case

# A page that one side reads and the other does not must be a tie: its weight within this of the threshold, as
# |log2| of their ratio. The kernel rounds queries and means to 11 bits: a score of 4 moves by about 2e-3.
TIE = 0.02

Page = tuple[int, int]  # its number, and the range (0 intra, 1 successive, 2 inter) of the keys meant


def sparse_cases(seed: int, count: int, longest: int = 3600) -> Iterator[Case]:
    """Random shapes, schemes and starts of prompts long enough to choose, borders in and between pages."""
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
        border = draw.choice((128, 129, 200, 300, 512, 777, 1024))
        window = draw.randrange(border)
        a = draw.choice((0.0, 0.0, 0.1))
        scheme = PositionScheme(
            border,
            window,
            border + window + draw.choice((1, border)),
            draw.random() < 0.1,
            a,
            64 if a else 0,
        )
        if draw.random() < 0.2:
            scheme = PositionScheme()
        start = draw.choice((0, border, 1280, draw.randrange(longest // 2)))
        n_queries = draw.choice((1, 31, 32, 33, 127, 128, 129, draw.randrange(1, longest - start)))
        n_queries = max(n_queries, 1300 - start)
        dtype = draw.choice(("f16", "bf16"))
        cache = draw.choice((dtype, "f16", "bf16", "q8", "q4" if head_dim % 32 == 0 else "q8"))
        traits = Traits(0, draw.choice((0.0, 0.0, 0.5, 3.0)), draw.random() < 0.3)
        others = (draw.randrange(1, 500),)
        yield Case(shape, scheme, start, n_queries, others, dtype, cache, 1000 * seed + n, traits)


def structured_problem(library: AttentionLibrary, case: Case) -> Problem:
    """The case's, with keys that lean another way in each page, so that pages differ."""
    problem = make_problem(library, case)
    generator = torch.Generator("cuda").manual_seed(case.seed)
    for k in problem.k:
        pages = -(-len(k) // PAGE_TOKENS)
        lean = torch.randn((pages, *k.shape[1:]), device="cuda", generator=generator)
        k += lean.repeat_interleave(PAGE_TOKENS, dim=0)[: len(k)].to(k.dtype)
    problem.store()
    return problem


def range_of(problem: Problem, chunk: int, key: torch.Tensor) -> torch.Tensor:
    """Which range of a chunk's queries keys lie in."""
    gap = chunk - key // problem.scheme.chunk_size
    return gap.clamp(max=2)


def blocks_of(problem: Problem, start: int, stop: int) -> list[tuple[int, int]]:
    """docs/sparse.md's blocks of up to 32 queries."""
    s, found, at = problem.scheme.chunk_size, [], start
    while at < stop:
        until = min(stop, (at // QUARTER + 1) * QUARTER, (at // s + 1) * s)
        found.append((at, until))
        at = until
    return found


def page_weights(problem: Problem, first: int, stop: int) -> dict[Page, torch.Tensor]:
    """The weight of every full page before the block's own, (n_heads,) each."""
    shape, scheme = problem.shape, problem.scheme
    s, c, w = scheme.chunk_size, scheme.pretraining_length, scheme.local_window
    chunk, own = first // s, first // PAGE_TOKENS
    keys, _ = problem.cache_as_float64(0)
    i = torch.arange(first, stop, device="cuda")
    r = i % s
    m = torch.ones(len(i), device="cuda", dtype=torch.float64)
    if scheme.logit_scale:
        m = torch.clamp(
            scheme.logit_scale * torch.log((i.double() + 1) / scheme.logit_scale_length) + 1, min=1
        )
    rotated = [rotate(problem.q[0][i].double(), r, problem)]
    if chunk > 0 and not scheme.intra_only:
        successive = torch.where(r < w, torch.clamp(s + r, max=c - 1), torch.full_like(r, c - 1))
        rotated += [
            rotate(problem.q[0][i].double(), p, problem) for p in (successive, torch.full_like(r, c - 1))
        ]
    names, scores = [], []
    for page in range(own):
        begin, end = page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS
        border = min(end, (begin // s + 1) * s)
        for left, right in ((begin, border), (border, end)):
            gap = chunk - left // s
            if left == right or (scheme.intra_only and gap != 0):
                continue
            mean = keys[:, left:right].mean(dim=1)  # (kv_heads, head_dim)
            q = rotated[min(gap, 2)].unflatten(1, (shape.n_kv_heads, -1))
            score = torch.einsum("nkgd,kd->nkg", q, mean).flatten(1) * (m * m)[:, None]
            names.append((page, min(gap, 2)))
            scores.append(score / shape.head_dim**0.5)
    if not names:
        return {}
    logits = torch.stack(scores)  # (rows, n, heads)
    weights = (logits - logits.amax(dim=0)).exp().sum(dim=1)
    found: dict[Page, torch.Tensor] = {}
    for name, weight in zip(names, weights, strict=True):
        found[name] = torch.maximum(found[name], weight) if name in found else weight
    return found


def check_choice(problem: Problem, listed: list[ListedBlock], alpha: float, start: int, stop: int) -> float:
    """AssertionError unless the lists hold what docs/sparse.md says, ties aside; the farthest tie."""
    s = problem.scheme.chunk_size
    farthest = 0.0
    for first, until in blocks_of(problem, start, stop):
        own, chunk, quarter = first // PAGE_TOKENS, first // s, first % PAGE_TOKENS // QUARTER
        weights = page_weights(problem, first, until)
        pages = torch.arange(own + 1, device="cuda")
        visible: set[Page] = set()
        for page in pages.tolist():
            inside = torch.arange(page * PAGE_TOKENS, min((page + 1) * PAGE_TOKENS, until))
            visible |= {(page, int(kind)) for kind in range_of(problem, chunk, inside).unique()}
        if problem.scheme.intra_only:
            visible = {each for each in visible if each[1] == 0}
        heaviest = torch.stack(list(weights.values())).amax(dim=0) if weights else None
        for head in range(problem.shape.n_heads):
            block = next(
                each
                for each in listed
                if each.head == head and each.first <= first and until <= each.first + each.rows
            )
            found = {(page, kind) for page, kind, quarters in block.pages if quarters >> quarter & 1}
            assert found <= visible, f"{(first, until)}, head {head}: {found - visible} is not seen"
            for page in visible:
                always = page[0] < SINKS or page[0] + LOCAL >= own
                expected = always or weights[page][head] >= alpha * heaviest[head]  # type: ignore[index]
                if expected == (page in found):
                    continue
                assert not always, f"{(first, until)}, head {head}: {page} is read in any case"
                ratio = weights[page][head] / (alpha * heaviest[head])  # type: ignore[index]
                margin = abs(float(torch.log2(ratio)))
                assert margin <= TIE, f"{(first, until)}, head {head}: {page} is no tie: {margin:.3g}"
                farthest = max(farthest, margin)
    return farthest


def read_mask(problem: Problem, listed: list[ListedBlock], start: int, stop: int) -> torch.Tensor:
    """(n_heads, queries, tokens) bool: which keys the lists let each query read, causality aside. Every
    query must be in one block of each head, and the lists in the walk's order without repetition."""
    n_tokens = problem.lengths[0]
    read = torch.zeros((problem.shape.n_heads, stop - start, n_tokens), dtype=torch.bool)
    covered = torch.zeros((problem.shape.n_heads, stop - start), dtype=torch.int32)
    for block in listed:
        covered[block.head, block.first - start : block.first - start + block.rows] += 1
        assert block.first // PAGE_TOKENS == (block.first + block.rows - 1) // PAGE_TOKENS
        assert block.chunk == block.first // problem.scheme.chunk_size
        order = [(kind, -page) for page, kind, _ in block.pages]
        assert order == sorted(set(order)), block
        base = block.first // PAGE_TOKENS * PAGE_TOKENS
        for page, kind, quarters in block.pages:
            keys = torch.arange(page * PAGE_TOKENS, min((page + 1) * PAGE_TOKENS, n_tokens))
            keys = keys[range_of(problem, block.chunk, keys) == kind]
            for quarter in range(4):
                begin = max(block.first, base + quarter * QUARTER)
                end = min(block.first + block.rows, base + (quarter + 1) * QUARTER)
                if quarters >> quarter & 1:
                    assert begin < end, f"quarter {quarter} of {block.first} has no query"
                    read[block.head, begin - start : end - start, keys] = True
    assert (covered == 1).all()
    return read.cuda()


def check_sparse(
    library: AttentionLibrary, case: Case, alpha: float, kernels: tuple[str, ...] = ("sm80", "sm90")
) -> dict[str, float]:
    """Figures by name; AssertionError where something is wrong."""
    problem = structured_problem(library, case)
    start, stop = case.start, case.start + case.n_queries
    selection = Selection(problem, start, case.n_queries)
    selection.make_means()
    check_means(problem, selection)
    assert selection.select(alpha)
    listed = selection.listed()
    figures = {"tie": check_choice(problem, listed, alpha, start, stop)}
    read = read_mask(problem, listed, start, stop)
    indices = torch.arange(start, stop, device="cuda")
    key = torch.arange(problem.lengths[0], device="cuda")
    seen = key <= indices[:, None]
    if case.scheme.intra_only:
        seen &= key // case.scheme.chunk_size == (indices // case.scheme.chunk_size)[:, None]
    unread = (seen & ~read).sum(dim=(1, 2))
    assert torch.equal(unread, selection.unread), f"{unread} {selection.unread}"
    figures["density"] = 1 - float(unread.double().mean()) / float(seen.sum())

    expected = reference(problem, indices, 0, read)
    for kernel in kernels:
        canvas = torch.full(
            (case.n_queries, 2 * case.shape.n_heads, case.shape.head_dim),
            torch.nan,
            device="cuda",
            dtype=problem.q[0].dtype,
        )
        out = canvas[:, : case.shape.n_heads]
        if not selection.attend(out, kernel):
            continue
        errors = row_errors(out, expected)
        bad = (~(errors <= case.tolerance)).nonzero()
        assert not len(bad), f"{kernel}: {case}: (query, head) {bad[:6].tolist()}, {errors.max():.2e}"
        assert canvas[:, case.shape.n_heads :].isnan().all(), f"{kernel}: {case}: wrote past its rows"
        figures[kernel] = errors.max().item() / case.tolerance
    return figures


def check_means(problem: Problem, selection: Selection) -> None:
    """Means of full pages within f16's rounding of float64's, on both sides of a border."""
    keys, _ = problem.cache_as_float64(0)
    s = problem.scheme.chunk_size
    for index, page in selection.filled.cpu().tolist():
        begin, end = index * PAGE_TOKENS, (index + 1) * PAGE_TOKENS
        border = min(end, (begin // s + 1) * s)
        for side, (left, right) in enumerate(((begin, border), (border, end))):
            if left == right:
                continue
            expected = keys[:, left:right].mean(dim=1)
            error = (selection.means[page, :, side].double() - expected).abs().max()
            assert error <= 2 * ROUNDOFF["f16"] * expected.abs().max() + 1e-6, (index, side, float(error))


def check_everything_kept(library: AttentionLibrary, case: Case, kernel: str) -> bool:
    """alpha = 0 gives the dense kernel's bits; False if the kernel does not take the case."""
    problem = structured_problem(library, case)
    selection = Selection(problem, case.start, case.n_queries)
    selection.make_means()
    assert selection.select(0.0)
    assert not selection.unread.any()
    dense, kept = (torch.full_like(problem.q[0][case.start :], torch.nan) for _ in range(2))
    if not problem.prefill(case.start, case.n_queries, dense, kernel):
        return False
    assert selection.attend(kept, kernel)
    assert torch.equal(dense, kept), f"{kernel}: {case}: {(dense != kept).sum()} values differ"
    return True
