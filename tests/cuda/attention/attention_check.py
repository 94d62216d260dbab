"""Checks of the CUDA attention kernels against float64, written from eq. 2-9 of the paper (arXiv 2402.17463).

The reference forms every logit from the query rotated at the position that the gap between the two tokens'
chunks asks for; it knows no key ranges, tiles or running sums.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import torch
from attention_arguments import PAGE_TOKENS, PositionScheme, Shape, Traits
from attention_library import AttentionLibrary
from attention_problem import DecodeRows, Problem

# Unit roundoffs. Queries, softmax weights and outputs each round once, by about 0.4 of these in the mean
# square; ROOM covers the worst of thousands of rows. Errors are relative to the norm of a head's output row.
ROUNDOFF = {"f16": 2.0**-11, "bf16": 2.0**-8}
ROOM = 4

STRING, STREAMING, LM_INFINITE = 1, 2, 3  # Border of core/positions/scheme.h


@dataclasses.dataclass(frozen=True)
class Case:
    shape: Shape
    scheme: PositionScheme
    start: int
    n_queries: int
    others: tuple[int, ...]  # lengths of the other sequences in the cache
    dtype: str
    cache: str
    seed: int
    traits: Traits = Traits()

    @property
    def tolerance(self) -> float:
        """Of a row's relative error: the coarser of the operands' and the output's roundoff."""
        operands = "bf16" if self.cache == "bf16" else "f16"
        room = 2 * ROOM if self.cache in ("q8", "q4") else ROOM  # turned, queries and outputs round once more
        return room * max(ROUNDOFF[operands], ROUNDOFF[self.dtype])


def rotate(x: torch.Tensor, positions: torch.Tensor, problem: Problem) -> torch.Tensor:
    """RoPE in float64: x (n, heads, head_dim), positions (n,)."""
    shape = problem.shape
    angles = positions.double()[:, None] * problem.frequencies()
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    rotated, rest = x[..., : shape.rotary], x[..., shape.rotary :]
    if shape.interleaved:
        pairs = torch.view_as_complex(rotated.reshape(*rotated.shape[:-1], -1, 2).contiguous())
        rotated = torch.view_as_real(pairs * turn).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        pairs = torch.complex(first.contiguous(), second.contiguous()) * turn
        rotated = torch.cat((pairs.real, pairs.imag), dim=-1)
    return torch.cat((rotated, rest), dim=-1)


def reference(
    problem: Problem,
    indices: torch.Tensor,
    sequence: int = 0,
    read: torch.Tensor | None = None,
    start: int | None = None,
) -> torch.Tensor:
    """Attention in float64 of a sequence's queries at ``indices`` over the cache: (n, n_heads, head_dim).

    ``read`` (n_heads, n, tokens of the sequence), bool: which keys each query reads of those that it sees;
    None: all. The queries are of a step from ``start`` on; None: from the first of them.
    """
    scheme, shape = problem.scheme, problem.shape
    n_tokens = problem.lengths[sequence]
    fresh = problem.fresh_page(int(indices[0]) if start is None else start)
    keys, values = problem.cache_as_float64(sequence, fresh)
    group = shape.n_heads // shape.n_kv_heads
    outs = []
    reads = [None] * len(indices.split(512)) if read is None else read.split(512, dim=1)
    for i, own_read in zip(indices.split(512), reads, strict=True):
        s, c, w = scheme.chunk_size, scheme.pretraining_length, scheme.local_window
        r = i % s
        q = problem.q[sequence][i].double()
        gap = i[:, None] // s - torch.arange(n_tokens, device=i.device) // s
        successive = torch.where(r < w, torch.clamp(s + r, max=c - 1), torch.full_like(r, c - 1))
        by_gap = [r, successive, torch.full_like(r, c - 1)]
        j = torch.arange(n_tokens, device=i.device)
        visible = (j <= i[:, None]) & ((gap == 0) | (not scheme.intra_only))
        if scheme.border:
            by_gap, gap, seen = moving_border(scheme, i, j)
            visible &= seen
        if problem.traits.window:
            visible &= i[:, None] - j < problem.traits.window
        length = i.double() + 1
        m = torch.ones_like(length)
        if scheme.logit_scale:
            m = torch.clamp(scheme.logit_scale * torch.log(length / scheme.logit_scale_length) + 1, min=1)
        out = torch.empty_like(q)
        for kv_head in range(shape.n_kv_heads):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            logits = torch.full((len(i), group, n_tokens), -torch.inf, device=i.device, dtype=torch.float64)
            for kind, positions in enumerate(by_gap):
                chosen = visible & (gap == kind if kind < 2 or scheme.border else gap >= 2)
                if not chosen.any():
                    continue
                own = torch.einsum("nhd,kd->nhk", rotate(q[:, heads], positions, problem), keys[kv_head])
                logits = torch.where(chosen[:, None], own, logits)
            logits *= (m * m)[:, None, None] / shape.head_dim**0.5
            if cap := problem.traits.cap:
                logits = torch.where(logits.isinf(), logits, cap * torch.tanh(logits / cap))
            if own_read is not None:
                logits.masked_fill_(~own_read[heads].transpose(0, 1), -torch.inf)
            if problem.traits.sinks:  # a logit of its own, whose value is nothing
                sinks = problem.sinks[heads].double()[None, :, None].expand(len(i), -1, 1)
                weights = torch.softmax(torch.cat((logits, sinks), dim=-1), dim=-1)[..., :-1]
            else:
                weights = torch.softmax(logits, dim=-1)
            out[:, heads] = weights @ values[kv_head]
        outs.append(out)
    return torch.cat(outs)


def moving_border(
    scheme: PositionScheme, i: torch.Tensor, j: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Positions of the queries i for each kind of keys, the kind of each key j (n, m), and which are seen.
    Kind 0 is near, what the papers (STRING, StreamingLLM, LM-Infinite) leave as it is."""
    window, beyond = scheme.window, scheme.beyond
    near = i[:, None] - j < window
    if scheme.border == STRING:
        return [i, i - window + beyond], (~near).int(), torch.ones_like(near)
    seen = near | (j < beyond)
    if scheme.border == STREAMING:
        return [i, i.clamp(max=window + beyond - 1)], (~near).int(), seen
    # Keys carry their own index: one that is to be `window` away wants the query as much further on.
    kinds = torch.where(near, 0, 1 + j)
    return [i, *(torch.full_like(i, window + k) for k in range(beyond))], kinds, seen


def row_errors(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(n, n_heads): norm of the error over the norm of the row; NaN stays NaN."""
    return (out.double() - expected).norm(dim=-1) / expected.norm(dim=-1)


def check_prefill(
    library: AttentionLibrary, case: Case, kernels: tuple[str, ...], pages: int | None = None
) -> dict[str, float]:
    """The worst row's relative error by kernel that takes the case; AssertionError where one is wrong.

    ``pages``: the kernel "pieces" has work space for as many dequantized ones beside the queries' own."""
    n_tokens = case.start + case.n_queries
    problem = make_problem(library, case)
    indices = torch.arange(case.start, n_tokens, device="cuda")
    expected = reference(problem, indices, start=case.start)
    worst = {}
    for kernel in kernels:
        # Twice the width: the right half must stay as it was.
        canvas = torch.full(
            (case.n_queries, 2 * case.shape.n_heads, case.shape.head_dim),
            torch.nan,
            device="cuda",
            dtype=problem.q[0].dtype,
        )
        out = canvas[:, : case.shape.n_heads]
        if kernel == "pieces":
            held = (pages or 0) + -(-case.n_queries // PAGE_TOKENS) + 1
            taken = problem.prefill_in_pieces(case.start, case.n_queries, held, out)
        else:
            taken = problem.prefill(case.start, case.n_queries, out, kernel)
        if not taken:
            continue
        errors = row_errors(out, expected)
        worst[kernel] = errors.max().item()
        bad = (~(errors <= case.tolerance)).nonzero()  # NaN is bad too
        assert not len(bad), f"{kernel}: {case}: (query, head) {bad[:6].tolist()}, worst {worst[kernel]:.2e}"
        assert canvas[:, case.shape.n_heads :].isnan().all(), f"{kernel}: {case}: wrote past its rows"
    return worst


def check_decode(library: AttentionLibrary, case: Case) -> float:
    """The same for single tokens: one alone, then many rows in one call."""
    problem = make_problem(library, case)
    n_tokens = case.start + case.n_queries
    draw = random.Random(case.seed)
    tokens: list[tuple[int, int] | None] = [(0, index) for index in (n_tokens - 1, case.start, n_tokens // 2)]
    tokens += [
        (1 + n, draw.choice((length - 1, draw.randrange(length)))) for n, length in enumerate(case.others)
    ]
    tokens += [None] * draw.choice((0, 1, 3))
    draw.shuffle(tokens)
    worst = max(check_rows(problem, case, [at]) for at in tokens[:2])
    return max(worst, check_rows(problem, case, tokens))


def check_shared_decode(
    library: AttentionLibrary,
    case: Case,
    pages: tuple[int, ...] = (1, 2, 9, 20),
    rows: tuple[int, ...] = (2, 3, 9, 17),
) -> float | None:
    """The same for rows that read their shared first pages together, others beside them; None: this shape has
    no such groups. How many pages and rows: one of ``pages``, one of ``rows``."""
    draw = random.Random(case.seed)
    shared = draw.choice(pages)
    n_tokens, s = shared * PAGE_TOKENS, case.scheme.chunk_size
    newest = n_tokens + draw.randrange(2 * min(s, 600))
    first = max(n_tokens, newest // s * s)
    last = min((newest // s + 1) * s - 1, first + 700)
    lengths = [draw.randint(first, last) + 1 for _ in range(draw.choice(rows))]
    lengths += [n_tokens + draw.randrange(1, 500) for _ in range(2)]  # the last two in no group
    problem = Problem(
        library,
        case.shape,
        case.scheme,
        tuple(lengths),
        case.dtype,
        case.cache,
        seed=case.seed,
        decode_rows=len(lengths) + 3,
        shared_pages=shared,
        traits=case.traits,
    )
    most = problem.most_group_rows()
    if most < 2 or case.scheme.intra_only or case.scheme.border or not case.traits.plain:
        return None
    tokens: list[tuple[int, int] | None] = [(n, length - 1) for n, length in enumerate(lengths)]
    tokens += [None] * draw.choice((0, 1, 3))
    draw.shuffle(tokens)
    together = [row for row, at in enumerate(tokens) if at is not None and at[0] < len(lengths) - 2]
    groups = []
    while len(together) > 1:
        size = min(len(together), draw.randint(2, most))
        groups.append((n_tokens, together[:size]))
        together = together[size:]
    return check_rows(problem, case, tokens, groups)


def check_rows(
    problem: Problem,
    case: Case,
    tokens: list[tuple[int, int] | None],
    groups: list[tuple[int, list[int]]] | None = None,
) -> float:
    """The worst row's relative error. The call is made twice: the second finds its counters as the first did
    and gives the same bits, and so does one where every other row is padding (without groups: they have no
    padding)."""
    rows = problem.decode_rows(tokens, groups)
    where = f"decode of {len(tokens)} rows: {case}"

    def decode(of: DecodeRows) -> torch.Tensor:
        canvas = torch.full(
            (len(tokens), 2 * case.shape.n_heads, case.shape.head_dim),
            torch.nan,
            device="cuda",
            dtype=problem.q[0].dtype,
        )
        problem.decode(of, canvas[:, : case.shape.n_heads])
        assert canvas[:, case.shape.n_heads :].isnan().all(), f"{where}: wrote past its rows"
        return canvas[:, : case.shape.n_heads]

    out = decode(rows)
    worst = 0.0
    for row, at in enumerate(tokens):
        if at is None:
            assert out[row].isnan().all(), f"{where}: wrote row {row}, which is padding"
            continue
        sequence, index = at
        expected = reference(problem, torch.tensor([index], device="cuda"), sequence)
        errors = row_errors(out[row][None], expected)[0]
        bad = (~(errors <= case.tolerance)).nonzero().flatten().tolist()
        assert not bad, (
            f"{where}: row {row}, token {index} of sequence {sequence}: heads {bad[:6]}, "
            f"worst {errors.max():.2e} > {case.tolerance:.2e}"
        )
        worst = max(worst, errors.max().item())

    again = decode(rows)
    lengths = rows.rows.clone()
    lengths[1::2, 0] = 0
    thinned = decode(DecodeRows(rows.q, lengths)) if groups is None else out
    for row, at in enumerate(tokens):
        if at is None:
            continue
        assert torch.equal(out[row], again[row]), f"{where}: row {row} differs in a second call"
        if row % 2 == 0:
            assert torch.equal(out[row], thinned[row]), f"{where}: row {row} depends on the others"
    return worst


def check_store(library: AttentionLibrary, case: Case) -> float:
    """Stored keys, rotated at P_k, and values against float64; the worst row's share of what may be."""
    problem = make_problem(library, case)
    # Q8: steps of max / 127, so an error of up to half a step each; rows of n values have norm >= max.
    # Scales are rounded up to seven bits, which the factor 2 below covers.
    # Q4: steps of a fifteenth of a range of up to 6 standard deviations, 1.4 times as large by the centre: an
    # error of up to 0.28.
    roundoff = 0.5 / 127 * case.shape.head_dim**0.5 if case.cache == "q8" else ROUNDOFF.get(case.cache, 0.15)
    worst = 0.0
    for sequence, length in enumerate(problem.lengths):
        positions = torch.arange(length, device="cuda") % case.scheme.chunk_size
        keys, values = problem.cache_as_float64(sequence)
        for name, stored, expected in (
            ("key", keys, rotate(problem.k[sequence].double(), positions, problem)),
            ("value", values, problem.v[sequence].double()),
        ):
            errors = row_errors(stored.transpose(0, 1), expected)
            bad = (~(errors <= 2 * roundoff)).nonzero().tolist()
            assert not bad, (
                f"store: {case}: sequence {sequence}: {name} of (token, head) {bad[:6]}, "
                f"worst {errors.max():.2e} > {2 * roundoff:.2e}"
            )
            worst = max(worst, errors.max().item())
        if case.cache == "q4":
            check_fine_codes(problem, sequence)
    touched = problem.free_slots_touched()
    assert touched == 0, f"store: {case}: wrote {touched} slots that belong to no token"
    return worst / (2 * roundoff)


def check_fine_codes(problem: Problem, sequence: int) -> None:
    """Where a page has fine codes, they take 15 of 16 parts of what the first ones lose."""
    fine = problem.fine_as_float64(sequence, 0)
    read = problem.fine_slots[problem.places(sequence).long() // PAGE_TOKENS] >= 0
    if not read.any():
        return
    positions = torch.arange(problem.lengths[sequence], device="cuda") % problem.scheme.chunk_size
    exact = (
        rotate(problem.k[sequence].double(), positions, problem).transpose(0, 1),
        problem.v[sequence].double().transpose(0, 1),
    )
    coarse, both = problem.cache_as_float64(sequence), problem.cache_as_float64(sequence, 0)
    assert fine[:, :, ~read].abs().max() == 0 if (~read).any() else True
    for expected, without, with_fine in zip(exact, coarse, both, strict=True):
        lost = (without - expected)[:, read].norm()
        assert (with_fine - expected)[:, read].norm() < lost / 10


def make_problem(library: AttentionLibrary, case: Case) -> Problem:
    return Problem(
        library,
        case.shape,
        case.scheme,
        (case.start + case.n_queries, *case.others),
        case.dtype,
        case.cache,
        spare_pages=case.seed % 4,
        seed=case.seed,
        dequantized_kv_heads=1 + case.seed % case.shape.n_kv_heads,
        decode_rows=len(case.others) + 8,
        traits=case.traits,
    )


def cases_of_few_queries(seed: int, count: int) -> Iterator[Case]:
    """Few queries after many keys, which several blocks of threads share on Hopper."""
    draw = random.Random(seed)
    for n in range(count):
        n_kv_heads = draw.choice((1, 2, 3))
        head_dim = (64, 96, 128, 128)[n % 4]
        shape = Shape(n_kv_heads * draw.choice((1, 2, 4)), n_kv_heads, head_dim)
        border = draw.choice((777, 3000, 6144, 20000))
        window = draw.randrange(border)
        scheme = PositionScheme(border, window, border + window + draw.choice((1, border)))
        start = draw.choice((8192, 12288, draw.randrange(9000, 20000)))
        n_queries = draw.choice((17, 127, 128, 129, draw.randrange(130, 400)))
        dtype = draw.choice(("f16", "bf16"))
        cache = ("f16", dtype, "q8", "q4")[draw.randrange(4)]
        yield Case(shape, scheme, start, n_queries, (), dtype, cache, 1000 * seed + n, Traits())


def cases_in_pieces(seed: int, count: int) -> Iterator[tuple[Case, int]]:
    """The same over caches of codes, and for how many pages of the keys before the queries there is room."""
    draw = random.Random(seed)
    for n, case in enumerate(cases_of_few_queries(seed, count)):
        n_queries = draw.choice((case.n_queries, draw.randrange(400, 1500)))
        scheme = PositionScheme() if n % 5 == 4 else case.scheme
        case = dataclasses.replace(case, scheme=scheme, cache=("q8", "q4")[n % 2], n_queries=n_queries)
        yield case, draw.choice((1, 7, 30, 50))


def random_cases(seed: int, count: int, longest: int = 3000) -> Iterator[Case]:
    """Random shapes, schemes, starts and lengths, with those at chunk borders drawn often."""
    draw = random.Random(seed)
    for n in range(count):
        n_kv_heads = draw.choice((1, 2, 3))
        head_dim = draw.choice((64, 80, 96, 128, 64, 80, 96, 128, 256, 48))
        rotary_dim = draw.choice((None, None, head_dim // 2 // 8 * 8))
        shape = Shape(
            n_kv_heads * draw.choice((1, 1, 2, 4, 7, 12)),
            n_kv_heads,
            head_dim,
            rotary_dim,
            draw.random() < 0.5,
        )
        if draw.random() < 0.2:
            scheme, border = PositionScheme(), draw.choice((64, 128, 256))
        else:
            border = draw.choice((6, 64, 100, 128, 129, 300, 512, 777))
            window = draw.randrange(border)
            a = draw.choice((0.0, 0.0, 0.1))
            scheme = PositionScheme(
                border,
                window,
                border + window + draw.choice((1, 1, border)),
                draw.random() < 0.1,
                a,
                64 if a else 0,
            )
        start = draw.choice((0, 0, border, draw.randrange(longest // 2)))
        length = draw.choice((1, border - 1, border, border + 1, 2 * border, draw.randrange(1, longest // 2)))
        dtype = draw.choice(("f16", "bf16"))
        cache = draw.choice((dtype, "f16", "bf16", "q8", "q4", "q4"))
        if cache == "q4" and head_dim % 32 != 0:
            cache = "q8"
        n_others = draw.choice((0, 1, 2, 5, 5, 33, 40))
        others = tuple(
            draw.choice((1, 127, 128, 129, border, draw.randrange(1, longest))) for _ in range(n_others)
        )
        yield Case(shape, scheme, start, max(1, length), others, dtype, cache, 1000 * seed + n)


def cases_with_borders(seed: int, count: int) -> Iterator[Case]:
    """Random cases of schemes whose border moves with the query."""
    draw = random.Random(seed)
    for case in random_cases(seed, count):
        border = draw.choice((STRING, STRING, STREAMING, LM_INFINITE))
        window = draw.choice((1, 10, 64, 100, 127, 128, 129, 300, 1024))
        beyond = draw.choice((0, 1, 4, 9, 130 if border != LM_INFINITE else 3))
        scheme = PositionScheme(
            border=border, window=window, beyond=min(beyond, window) if border == STRING else beyond
        )
        yield dataclasses.replace(case, scheme=scheme)


def cases_with_traits(seed: int, count: int) -> Iterator[Case]:
    """Random cases with a window, a cap, sinks or several of these, mostly of head sizes with fast kernels.

    A layer with a window has chunks as long as it, and ordinary distances; others have any scheme.
    """
    draw = random.Random(seed)
    for case in random_cases(seed, count):
        head_dim = draw.choice((64, 128, 128, 256, 48))
        window = draw.choice((0, 1, 10, 64, 100, 128, 300, 1024))
        shape = dataclasses.replace(
            case.shape, head_dim=head_dim, rotary_dim=draw.choice((None, 0, head_dim // 2 // 8 * 8))
        )
        traits = Traits(window, draw.choice((0.0, 0.0, 0.5, 3.0)), draw.random() < 0.4)
        scheme = PositionScheme(window, window, 2 * window) if window else case.scheme
        cache = "q8" if case.cache == "q4" and head_dim % 32 != 0 else case.cache
        yield dataclasses.replace(case, shape=shape, scheme=scheme, traits=traits, cache=cache)


def check_all(
    library: AttentionLibrary, seed: int, count: int, kernels: tuple[str, ...] = ("simple", "sm80", "sm90")
) -> str:
    """Runs every check on ``count`` random cases; a line of figures."""
    worst: dict[str, float] = {}
    cases: dict[str, int] = {}
    for case in random_cases(seed, count):
        shares = {k: e / case.tolerance for k, e in check_prefill(library, case, kernels).items()}
        shares |= {
            "decode": check_decode(library, case) / case.tolerance,
            "store": check_store(library, case),
        }
        together = check_shared_decode(library, case)
        if together is not None:
            shares["decode together"] = together / case.tolerance
        for name, share in shares.items():
            worst[name] = max(worst.get(name, 0.0), share)
            cases[name] = cases.get(name, 0) + 1
    torch.cuda.synchronize()
    return ", ".join(
        f"{name}: {cases[name]} cases, worst error {worst[name]:.2f} of the tolerance"
        for name in sorted(worst)
    )
