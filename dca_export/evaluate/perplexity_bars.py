"""How sure a perplexity is: block bootstraps over the text that it is of, and paired ones between methods.

A cell keeps the mean nll of short blocks of the text. The interval is of the mean that other texts of the
kind would give; what was measured of this very text is exact.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from dca_export.evaluate import intervals
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.results import Results

# Longer than what neighbouring tokens have to do with each other; of a short text there are still this many.
BLOCK_TOKENS = 128
_MOST_SHORT_BLOCKS = 64


class Blocks(NamedTuple):
    """Blocks of a text, in order."""

    starts: np.ndarray  # the first token of each, int64 (blocks,)
    ends: np.ndarray  # behind the last
    nll: np.ndarray  # mean over the tokens predicted in it, float64

    @property
    def tokens(self) -> np.ndarray:
        """How many tokens are predicted in each: all but the text's first."""
        return self.ends - np.maximum(self.starts, 1)

    def between(self, start: int, end: int) -> "Blocks":
        """Those that lie in the tokens [start, end)."""
        inside = (self.starts >= start) & (self.ends <= end)
        return Blocks(*(each[inside] for each in self))

    def joined(self, ends: np.ndarray) -> "Blocks":
        """Larger blocks, which end where these do that are named; the last of all is one of them."""
        firsts = np.concatenate(([0], np.searchsorted(self.ends, ends[:-1]) + 1))
        tokens = np.add.reduceat(self.tokens, firsts)
        nll = np.add.reduceat(self.tokens * self.nll, firsts) / tokens
        return Blocks(self.starts[firsts], ends, nll)


def measured(nll: np.ndarray, longest: int, borders: list[int]) -> list[list[Any]]:
    """[[start, end, mean nll]] of each block, for a cell's figures. nll[i] is the score of token i + 1.

    longest: tokens of the experiment's longest text, which all of its cells cut into the same blocks.
    No block lies across a border: lengths and windows have blocks of their own.
    """
    tokens = len(nll) + 1
    step = max(1, min(BLOCK_TOKENS, longest // _MOST_SHORT_BLOCKS))
    inner = {border for border in borders if border < tokens}
    cuts = sorted({1, tokens, *range(step, tokens, step), *inner} - {0})
    sums = np.add.reduceat(nll.astype(np.float64), np.array(cuts[:-1]) - 1)
    return [
        [0 if start == 1 else start, end, float(total / (end - start))]
        for start, end, total in zip(cuts, cuts[1:], sums, strict=False)
    ]


def blocks(results: Results, method: str, length: int) -> Blocks:
    """Of the cell that gave the perplexity at a length; none in results of earlier versions."""
    for cell, figures in results.cells(method=method):
        if length == cell.get("length") or length in cell.get("lengths", ()):
            rows = figures.get("blocks", [])
            starts, ends, nll = zip(*rows, strict=True) if rows else ((), (), ())
            return Blocks(np.array(starts, np.int64), np.array(ends, np.int64), np.array(nll, np.float64))
    return Blocks(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64)))


def at_length(results: Results, method: str, length: int) -> Blocks:
    """The blocks that the perplexity at a length is of: up to it in one pass, all of them with a stride."""
    found = blocks(results, method, length)
    slides = any(results.cells(method=method, length=length))
    return found if slides else found.between(0, length)


def of_perplexity(found: Blocks) -> Interval | None:
    """The perplexity's interval; None where there are too few blocks, or it is not finite."""
    return exponential(intervals.block_bootstrap(found.tokens, found.nll))


class Ratio(NamedTuple):
    """A method's perplexity as a multiple of another's on the same blocks."""

    value: float
    interval: Interval

    @property
    def differs(self) -> bool:
        """Whether the difference is larger than its noise."""
        return not self.interval.low <= 1 <= self.interval.high


def ratio(results: Results, method: str, other: str, length: int) -> Ratio | None:
    """At one length; None as in ``compared``."""
    return compared(at_length(results, method, length), at_length(results, other, length))


def compared(one: Blocks, two: Blocks) -> Ratio | None:
    """The first perplexity as a multiple of the second, paired by blocks; None where they are too few, or not
    of the same text."""
    common = np.intersect1d(one.ends, two.ends)
    if not len(common) or one.ends[-1] != two.ends[-1]:
        return None
    one, two = one.joined(common), two.joined(common)
    difference = one.nll - two.nll
    bounds = exponential(intervals.block_bootstrap(one.tokens, difference))
    mean = float((one.tokens * difference).sum() / one.tokens.sum())
    return None if bounds is None else Ratio(math.exp(min(mean, _LARGEST)), bounds)


_LARGEST = 700.0  # the exponential of more is beyond floating point


def exponential(interval: Interval | None) -> Interval | None:
    """Of a perplexity or a ratio, from its logarithm's; None where that is, or beyond floating point."""
    if interval is None or max(map(abs, interval)) >= _LARGEST:
        return None
    return Interval(*map(math.exp, interval))
