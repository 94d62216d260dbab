"""Stated budgets: which columns and diagonals a head of a prompt's queries reads, dense in PyTorch
(docs/sparse.md).

Written from the definition; it shares no code with the runtime. The last queries of a unit (what was
evaluated together of one chunk) score all keys, with positions that grow on beyond c - 1, so that a diagonal
stays one. A column weighs what its key weighs in their softmax, a diagonal what the keys at its distance do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from dca_export.reference.attention import Queries, key_ranges, products
from dca_export.reference.positions import logit_factors
from dca_export.reference.sparse import BLOCK

if TYPE_CHECKING:
    from dca_export.reference.attention import Attention
    from dca_export.scheme import Scheme

SINK_COLUMNS = 30  # of a sequence's start: they come before all others
LOCAL_DIAGONALS = 100  # the nearest distances, likewise


class Budget(NamedTuple):
    """How many a head reads."""

    columns: int
    diagonals: int


class Unit(NamedTuple):
    """Queries start … stop − 1, of one chunk, evaluated together."""

    start: int
    stop: int


class Lines(NamedTuple):
    """What a head chose: keys, and distances."""

    columns: frozenset[int]
    diagonals: frozenset[int]


class Weights(NamedTuple):
    """Of every head: column j is key `first` + j, diagonal d the distance d; (heads, keys) each."""

    columns: torch.Tensor
    diagonals: torch.Tensor
    first: int


class Disagreement(NamedTuple):
    """A column or diagonal that only one of the two read."""

    layer: int
    head: int
    unit: Unit
    line: str
    margin: float
    """|log2(weight / the least that is read)|"""


@dataclass
class StatedPrefill:
    """How a patched model prefills. `given`: by layer, what to read; None: what this module would choose, in
    units of `step` queries.

    `disagreements` gathers, where choices are given, those that this module would have made otherwise, and
    `compared` counts the lines judged.
    """

    budgets: Sequence[Sequence[Budget]]
    """(layers, heads)"""
    last_queries: int
    start: int
    """queries before it read everything"""
    stop: int
    step: int = 512
    given: Sequence[Mapping[Unit, Sequence[Lines]]] | None = None
    disagreements: list[Disagreement] = field(default_factory=list)
    compared: int = 0


def units(stated: StatedPrefill, scheme: Scheme | None) -> list[Unit]:
    """Of a prompt fed in one call: cut at steps and chunk borders, from the first whole block of 32 queries
    on that may be sparse."""
    found = []
    at = -(-stated.start // BLOCK) * BLOCK
    while at < stated.stop:
        until = min(stated.stop, (at // stated.step + 1) * stated.step)
        if scheme is not None:
            until = min(until, (at // scheme.chunk_size + 1) * scheme.chunk_size)
        found.append(Unit(at, until))
        at = until
    return found


def line_weights(
    queries: Queries,
    keys: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention,
    unit: Unit,
    softmax_scale: float,
) -> Weights:
    """What the unit's last queries see. `queries` are those alone, (heads, n, head_dim) at positions that are
    not held at c - 1; `keys` (kv_heads, m, head_dim) are the cache's."""
    n = queries.intra.shape[1]
    indices = torch.arange(unit.stop - n, unit.stop, device=keys.device)
    ranges = key_ranges(unit.start, unit.stop, scheme, attention)
    logits = torch.cat(
        [
            products(getattr(queries, each.kind).double(), keys[:, each.start : each.stop].double())
            for each in ranges
        ],
        dim=-1,
    )
    logits = logits * softmax_scale
    factors = logit_factors(indices, scheme)
    if factors is not None:
        logits = logits * factors[:, None]
    first = ranges[0].start
    distances = indices[:, None] - torch.arange(first, unit.stop, device=keys.device)[None, :]
    weights = logits.masked_fill(distances < 0, float("-inf")).softmax(dim=-1)
    diagonals = torch.zeros_like(weights[:, 0])
    for row, index in enumerate(indices.tolist()):
        diagonals[:, : index - first + 1] += weights[:, row, : index - first + 1].flip(-1)
    return Weights(weights.sum(dim=1), diagonals, first)


def heaviest(weights: torch.Tensor, forced: int, budget: int) -> tuple[frozenset[int], float]:
    """The `budget` first of (n,) weights, and the least weight among them: the first `forced` come before all
    others, of equals the earlier."""
    order = weights.clone()
    order[:forced] = float("inf")
    taken = torch.sort(order, descending=True, stable=True).indices[:budget]
    least = float(order[taken[-1]]) if len(taken) else float("inf")
    return frozenset(taken.tolist()), least


def choose(weights: Weights, budgets: Sequence[Budget]) -> list[tuple[Lines, float, float]]:
    """By head what is read, and the least weight of its columns and of its diagonals."""
    chosen = []
    for head, budget in enumerate(budgets):
        sinks = max(SINK_COLUMNS - weights.first, 0)
        columns, least_column = heaviest(weights.columns[head], sinks, budget.columns)
        diagonals, least_diagonal = heaviest(weights.diagonals[head], LOCAL_DIAGONALS, budget.diagonals)
        keys = frozenset(weights.first + column for column in columns)
        chosen.append((Lines(keys, diagonals), least_column, least_diagonal))
    return chosen


def read_keys(lines: Lines, start: int, stop: int) -> torch.Tensor:
    """Which of the keys 0 … stop − 1 the queries start … stop − 1 of one block read: bool (stop,)."""
    edges = torch.zeros(stop + 1, dtype=torch.int64)
    distances = torch.tensor(sorted(lines.diagonals), dtype=torch.int64)
    ones = torch.ones(len(distances), dtype=torch.int64)
    edges.index_add_(0, (start - distances).clamp(min=0), ones)
    edges.index_add_(0, (stop - distances).clamp(min=0), -ones)
    read = edges.cumsum(0)[:stop] > 0
    read[[column for column in lines.columns if column < stop]] = True
    return read


def hidden_keys(
    layer: int,
    queries: Queries,
    keys: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention,
    softmax_scale: float,
    stated: StatedPrefill,
    advance: Callable[[int], torch.Tensor],
) -> torch.Tensor:
    """Which keys the last n of m tokens do not read though they come before: bool (heads, n, m).

    Arguments as of eager_attention; `advance(d)` gives the intra queries at positions larger by d. Choices
    that were made elsewhere are compared with ours on the way, where all that choose are among the n.
    """
    heads, n, _ = queries.intra.shape
    m = keys.shape[1]
    if attention == "plain":
        scheme = None
    hidden = torch.zeros(heads, n, m, dtype=torch.bool, device=keys.device)
    made = units(stated, scheme) if stated.given is None else list(stated.given[layer])
    for unit in made:
        if unit.stop <= m - n or unit.start >= m:
            continue
        choosing = min(stated.last_queries, unit.stop - unit.start)
        ours = None
        if m - n <= unit.stop - choosing and unit.stop <= m:
            rows = slice(unit.stop - choosing - (m - n), unit.stop - (m - n))
            beyond = queries
            if scheme is not None:
                beyond = Queries(
                    queries.intra, advance(scheme.chunk_size), advance(scheme.pretraining_length - 1)
                )
            part = Queries(*(each[:, rows] for each in beyond))
            weights = line_weights(part, keys[:, : unit.stop], scheme, attention, unit, softmax_scale)
            ours = choose(weights, stated.budgets[layer])
            if stated.given is not None:
                _compare(layer, unit, stated.given[layer][unit], ours, weights, stated)
        if stated.given is not None:
            lines = list(stated.given[layer][unit])
        elif ours is not None:
            lines = [each for each, _, _ in ours]
        else:
            raise ValueError(f"the queries that choose for {unit} are not evaluated together")
        at = max(unit.start, m - n)
        while at < min(unit.stop, m):
            start = max(unit.start, at // BLOCK * BLOCK)
            stop = min(unit.stop, (at // BLOCK + 1) * BLOCK)
            until = min(stop, m)
            for head in range(heads):
                seen = ~read_keys(lines[head], start, stop).to(keys.device)
                hidden[head, at - (m - n) : until - (m - n), : min(stop, m)] = seen[:m]
            at = until
    return hidden


def _compare(
    layer: int,
    unit: Unit,
    given: Sequence[Lines],
    ours: Sequence[tuple[Lines, float, float]],
    weights: Weights,
    stated: StatedPrefill,
) -> None:
    """Notes in `stated` where choices made elsewhere are others than ours."""
    for head, (theirs, (mine, least_column, least_diagonal)) in enumerate(zip(given, ours, strict=True)):
        stated.compared += weights.columns.shape[1] + weights.diagonals.shape[1]
        for key in theirs.columns ^ mine.columns:
            margin = _margin(weights.columns[head], key - weights.first, key < SINK_COLUMNS, least_column)
            stated.disagreements.append(Disagreement(layer, head, unit, f"column {key}", margin))
        for distance in theirs.diagonals ^ mine.diagonals:
            near = distance < LOCAL_DIAGONALS
            margin = _margin(weights.diagonals[head], distance, near, least_diagonal)
            stated.disagreements.append(Disagreement(layer, head, unit, f"diagonal {distance}", margin))


def _margin(weights: torch.Tensor, at: int, forced: bool, least: float) -> float:
    if forced or not 0 <= at < len(weights):
        return float("inf")
    weight = float(weights[at])
    if weight == least:
        return 0.0
    if not (0 < weight < float("inf") and 0 < least < float("inf")):
        return float("inf")
    return abs(float(torch.log2(torch.tensor(weight / least, dtype=torch.float64))))
