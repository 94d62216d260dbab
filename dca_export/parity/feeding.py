"""How the same tokens reach the runtime: in one call, in uneven pieces, or one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_runtime import Session

# "Whole" prefill returns all its logits at once; beyond this it is several calls, as long as possible.
WHOLE_BYTES = 1 << 30
UNEVEN = (1, 7, 61, 2, 512, 130, 33)  # tokens a call, again and again

# A part is worth its name only if it crosses three chunk borders.
BORDERS = 3


@dataclass(frozen=True)
class Piece:
    """One call: so many tokens, and whether their logits are compared."""

    tokens: int
    compared: bool = True


def whole(length: int, n_vocab: int) -> list[Piece]:
    """Prefill in as few calls as WHOLE_BYTES of logits allow."""
    return _cut(length, cycle([max(1, WHOLE_BYTES // (4 * n_vocab))]))


def uneven(length: int) -> list[Piece]:
    """Prefill in pieces of changing size, single tokens among them."""
    return _cut(length, cycle(UNEVEN))


def _cut(length: int, sizes: Iterator[int]) -> list[Piece]:
    pieces = []
    while length:
        pieces.append(Piece(min(length, next(sizes))))
        length -= pieces[-1].tokens
    return pieces


def single(length: int, borders: Sequence[int], budget: int) -> list[Piece]:
    """One token at a time: all of them if `budget` allows, otherwise around up to four chunk borders from
    the first to the last, and the rest fed in bulk without being compared."""
    if budget >= length:
        return [Piece(1)] * length
    chosen = borders
    if len(borders) > BORDERS + 1:
        chosen = [borders[round(step * (len(borders) - 1) / BORDERS)] for step in range(BORDERS + 1)]
    elif not borders:
        chosen = [length]
    half = max(1, budget // (2 * len(chosen)))
    alone = np.zeros(length, bool)
    for border in chosen:
        alone[max(0, border - half) : border + half] = True
    edges = np.flatnonzero(np.diff(alone, prepend=~alone[0], append=~alone[-1]))
    pieces = []
    for start, stop in zip(edges, edges[1:], strict=False):
        count = int(stop - start)
        pieces += [Piece(1)] * count if alone[start] else [Piece(count, compared=False)]
    return pieces


def chunk_borders(length: int, scheme: Scheme | None) -> list[int]:
    """First tokens of all chunks but the first."""
    return [] if scheme is None else list(range(scheme.chunk_size, length, scheme.chunk_size))


def scheme_for(length: int, scheme: Scheme) -> Scheme:
    """`scheme`, or one in the same proportions with four borders within `length` tokens if it has fewer
    than three."""
    if len(chunk_borders(length, scheme)) >= BORDERS:
        return scheme
    chunk = max(1, length * 2 // 9)
    ratio = chunk / scheme.chunk_size
    beyond = max(1, round((scheme.pretraining_length - scheme.chunk_size) * ratio))
    window = min(beyond, max(round(scheme.local_window * ratio), min(1, scheme.local_window)))
    scale_length = max(1, round(scheme.logit_scale_length * ratio)) if scheme.logit_scale else 0
    return Scheme(chunk, window, chunk + beyond, scheme.logit_scale, scale_length)


class Feeder:
    """Feeds one session and hands out the logits of the tokens in order."""

    def __init__(self, session: Session, ids: Sequence[int], pieces: Sequence[Piece]) -> None:
        self._session = session
        self._ids = ids
        self._pieces = iter(pieces)
        self._fed = 0
        self._kept: list[tuple[int, np.ndarray]] = []  # first token, logits (n, n_vocab)

    def take(self, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n,) below `stop` that are compared and were not taken yet, and their logits
        (n, n_vocab) float32. Tokens are fed as far as that needs."""
        while self._fed < stop:
            piece = next(self._pieces)
            tokens = self._ids[self._fed : self._fed + piece.tokens]
            if piece.compared:
                self._kept.append((self._fed, self._session.eval(tokens, all_logits=True)))
            else:
                self._session.append(tokens)
            self._fed += piece.tokens
        taken: list[tuple[int, np.ndarray]] = []
        kept: list[tuple[int, np.ndarray]] = []
        for first, logits in self._kept:
            here = min(max(stop - first, 0), len(logits))
            if here:
                taken.append((first, logits[:here]))
            if here < len(logits):
                kept.append((first + here, logits[here:]))
        self._kept = kept
        if not taken:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        positions = np.concatenate([np.arange(first, first + len(logits)) for first, logits in taken])
        return positions, np.concatenate([logits for _, logits in taken])
