"""Which pages of keys a block of a prompt's queries reads: sparse prefill, dense in PyTorch (docs/sparse.md).

Written from the definition; it shares no code with the runtime. A page is 128 tokens. Its mean key is taken
apart on each side of a chunk border. For a block of queries and a head, each query's scores with the mean
keys, by its rotation for the range that the keys lie in, become weights 2^(score - the query's largest), and
their sum over the block is the page's weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from dca_export.reference.attention import Queries, key_ranges
from dca_export.reference.positions import logit_factors

if TYPE_CHECKING:
    from dca_export.reference.attention import Attention
    from dca_export.scheme import Scheme

PAGE = 128  # tokens
SINK_PAGES = 2  # the first ones, read in any case
LOCAL_PAGES = 4  # before the queries' own page, likewise
DENSE_TAIL = 256  # a prompt's last tokens read everything
BLOCK = 32  # queries that choose together, from multiples of it on, inside one chunk

Page = tuple[int, str]
"""its number, and the range that the keys meant lie in: a page that a border cuts can be two"""


class Block(NamedTuple):
    """Queries start … stop − 1, of one chunk and one page."""

    start: int
    stop: int


@dataclass
class Choices:
    """What one layer's heads read: for each block of queries the pages of every head, (block → heads)."""

    pages: Mapping[Block, Sequence[frozenset[Page]]]


@dataclass
class SparsePrefill:
    """How a patched model prefills. `given`: by layer, what to read; None: what this module would choose.

    `disagreements` gathers, where choices are given, those that this module would have made otherwise, with
    how far from the threshold the page was: the ratio of its weight to it, as |log2|.
    """

    alpha: float
    start: int
    stop: int
    """queries start … stop − 1 may be sparse"""
    given: Sequence[Choices] | None = None
    disagreements: list[Disagreement] = field(default_factory=list)
    compared: int = 0
    """pages that both sides judged"""


class Disagreement(NamedTuple):
    """A page that only one of the two read."""

    layer: int
    head: int
    block: Block
    page: Page
    margin: float
    """|log2(weight / threshold)|"""


def blocks(start: int, stop: int, scheme: Scheme | None, first: int, end: int) -> list[Block]:
    """The blocks among queries start … stop − 1 that choose pages: those whole in first … end − 1."""
    found = []
    at = start
    while at < stop:
        until = min(stop, (at // BLOCK + 1) * BLOCK)
        sparse = at >= first and until <= end
        while at < until:
            part = until
            if scheme is not None:
                part = min(until, (at // scheme.chunk_size + 1) * scheme.chunk_size)
            if sparse:
                found.append(Block(at, part))
            at = part
    return found


def page_weights(
    queries: Queries,
    keys: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention,
    block: Block,
    softmax_scale: float,
) -> dict[Page, torch.Tensor]:
    """The weight of every full page before the block's own, (heads,) each.

    `queries` are those of the block, rotated, (heads, n, head_dim) each; `keys` (kv_heads, m, head_dim) are
    the cache's. A page that a border cuts inside one range has two means, and the weight of the heavier.
    """
    heads, n, head_dim = queries.intra.shape
    own = block.start // PAGE
    names: list[Page] = []
    scores: list[torch.Tensor] = []
    for each in key_ranges(block.start, block.stop, scheme, attention):
        q = getattr(queries, each.kind).reshape(keys.shape[0], -1, head_dim).to(torch.float64)
        for page in range(each.start // PAGE, min(-(-each.stop // PAGE), own)):
            begin, end = max(each.start, page * PAGE), min(each.stop, (page + 1) * PAGE)
            edges = [begin, end]
            if scheme is not None:
                border = -(-(begin + 1) // scheme.chunk_size) * scheme.chunk_size
                edges = [begin, border, end] if border < end else edges
            for left, right in zip(edges, edges[1:], strict=False):
                mean = keys[:, left:right].to(torch.float64).mean(dim=1)
                names.append((page, each.kind))
                scores.append((q @ mean[:, :, None]).reshape(heads, n))
    if not names:
        return {}
    logits = torch.stack(scores) * softmax_scale
    factors = logit_factors(torch.arange(block.start, block.stop, device=keys.device), scheme)
    if factors is not None:
        logits = logits * factors
    weights = (logits - logits.amax(dim=0)).exp().sum(dim=-1)
    found: dict[Page, torch.Tensor] = {}
    for name, weight in zip(names, weights, strict=True):
        found[name] = torch.maximum(found[name], weight) if name in found else weight
    return found


def always_read(page: int, own: int) -> bool:
    """Whether queries of page `own` read `page` whatever it weighs."""
    return page < SINK_PAGES or page >= own - LOCAL_PAGES


def choose(
    weights: Mapping[Page, torch.Tensor], visible: Sequence[Page], own: int, alpha: float
) -> list[frozenset[Page]]:
    """The pages that each head reads, of `visible`."""
    heads = len(next(iter(weights.values()))) if weights else 0
    threshold = _threshold(weights, alpha)
    return [
        frozenset(
            page
            for page in visible
            if page not in weights
            or always_read(page[0], own)
            or not bool(weights[page][head] < threshold[head])
        )
        for head in range(heads)
    ]


def _compare(
    layer: int,
    block: Block,
    given: Sequence[frozenset[Page]],
    weights: Mapping[Page, torch.Tensor],
    visible: Sequence[Page],
    sparse: SparsePrefill,
) -> None:
    """Notes in `sparse` where choices made elsewhere are others than ours."""
    own = block.start // PAGE
    ours = choose(weights, visible, own, sparse.alpha)
    threshold = _threshold(weights, sparse.alpha)
    for head, (theirs, mine) in enumerate(zip(given, ours, strict=True)):
        sparse.compared += len(weights)
        for page in theirs ^ mine:
            margin = float("inf")
            if page in weights and not always_read(page[0], own):
                margin = abs(float(torch.log2(weights[page][head] / threshold[head])))
            sparse.disagreements.append(Disagreement(layer, head, block, page, margin))


def hidden_keys(
    layer: int,
    queries: Queries,
    keys: torch.Tensor,
    scheme: Scheme | None,
    attention: Attention,
    softmax_scale: float,
    sparse: SparsePrefill,
) -> torch.Tensor:
    """Which keys the last n of m tokens do not read though they come before: bool (heads, n, m).

    Arguments as of eager_attention. Choices that were made elsewhere are compared with ours on the way, where
    all queries of a block are among the n.
    """
    heads, n, _ = queries.intra.shape
    m = keys.shape[1]
    hidden = torch.zeros(heads, n, m, dtype=torch.bool, device=keys.device)
    if sparse.given is None:
        found = blocks(m - n, m, scheme, sparse.start, sparse.stop)
    else:
        found = [block for block in sparse.given[layer].pages if m - n < block.stop and block.start < m]
    for block in found:
        first, last = max(block.start, m - n), min(block.stop, m)
        whole = (first, last) == tuple(block)
        ranges = {
            each.kind: (each.start, each.stop)
            for each in key_ranges(block.start, block.stop, scheme, attention)
        }
        visible = [
            (page, kind)
            for kind, (start, stop) in ranges.items()
            for page in range(start // PAGE, -(-stop // PAGE))
        ]
        rows = slice(first - (m - n), last - (m - n))
        weights: dict[Page, torch.Tensor] = {}
        if whole:
            part = Queries(*(each[:, rows] for each in queries))
            weights = page_weights(part, keys, scheme, attention, block, softmax_scale)
        if sparse.given is None:
            chosen: Sequence[frozenset[Page]] = choose(weights, visible, block.start // PAGE, sparse.alpha)
        else:
            chosen = sparse.given[layer].pages[block]
            if whole:
                _compare(layer, block, chosen, weights, visible, sparse)
        for head, pages in enumerate(chosen):
            for page, kind in visible:
                if (page, kind) not in pages:
                    start, stop = ranges[kind]
                    hidden[head, rows, max(start, page * PAGE) : min(stop, (page + 1) * PAGE)] = True
    return hidden


def _threshold(weights: Mapping[Page, torch.Tensor], alpha: float) -> torch.Tensor:
    if not weights:
        return torch.zeros(0)
    return alpha * torch.stack(list(weights.values())).amax(dim=0)
