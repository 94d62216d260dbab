"""How sure a figure is: confidence intervals of shares, of means over a text, and of differences.

All are for 95 % confidence: of a hundred such intervals about 95 hold what they are about.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
SEED = 0  # of the resampling; the same figures give the same interval

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_RESAMPLES = 2000
FEWEST_BLOCKS = 8  # with fewer, what a resampling can give is too coarse for an interval of 95 %


class Interval(NamedTuple):
    """From low to high, both included."""

    low: float
    high: float


def wilson(share: float, n: int) -> Interval:
    """Where the share of successes in n trials would lie with many more (Wilson's score interval, 1927).

    Trials of which each is a share itself (half of the keywords) vary less: the interval is wider than need
    be then, as it is for trials of different difficulty.
    """
    z2 = _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def paired_shares(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The first share minus the second, of the same trials in the same order.

    Bonett and Price's adjusted interval (2012): only trials with different outcomes tell, and one of either
    kind is added to them.
    """
    n = len(one)
    differences = [a - b for a, b in zip(one, other, strict=True)]
    gained = (sum(max(d, 0.0) for d in differences) + 1) / (n + 2)
    lost = (sum(max(-d, 0.0) for d in differences) + 1) / (n + 2)
    half = _Z * math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    return Interval(max(-1.0, gained - lost - half), min(1.0, gained - lost + half))


def block_bootstrap(tokens: np.ndarray, means: np.ndarray, seed: int = SEED) -> Interval | None:
    """Of the mean over a text that is cut into blocks, or of a difference of two such means.

    tokens, means: (blocks,) each block's number of tokens and mean (for a difference, the difference of both
        means of the same block: what the text does to both cancels).

    Neighbouring blocks are joined into pieces, about as many as each has blocks, and pieces are drawn with
    replacement: a hard page is followed by another, over far more than a block, and what lies within a piece
    counts. Both grow with the text, so that what pieces have to do with each other vanishes. The percentiles
    are those that make the interval as wide for few pieces as Student's t would (Hesterberg 2015, the
    expanded percentile interval). None where there are too few blocks, or a mean is not finite.
    """
    blocks = len(means)
    if blocks < FEWEST_BLOCKS or not np.isfinite(means).all():
        return None
    pieces = max(FEWEST_BLOCKS, math.isqrt(blocks))
    firsts = np.arange(pieces) * blocks // pieces
    sizes = np.add.reduceat(tokens, firsts)
    sums = np.add.reduceat(tokens * means, firsts)
    drawn = _draws(pieces, seed).astype(np.float64)
    resampled = (drawn @ sums) / (drawn @ sizes)
    tail = NormalDist().cdf(-math.sqrt(pieces / (pieces - 1)) * _student(pieces - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=8)
def _draws(count: int, seed: int) -> np.ndarray:
    """How often each piece is drawn, int16 (resamples, pieces): the same for all texts of as many pieces."""
    shares = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, shares, _RESAMPLES).astype(np.int16)


def _student(freedom: int) -> float:
    """Student's t for the confidence, by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5)."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
