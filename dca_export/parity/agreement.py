"""How well two sets of logits agree, token by token: differences, KL divergence, top-1, perplexity."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

# Logits looked at together: a few arrays of so many float64 stay in a core's cache.
_BLOCK_VALUES = 1 << 16
_MOST_THREADS = 16


@dataclass(frozen=True)
class Agreement:
    """Logits of a runtime against those of a reference, over `tokens` positions.

    A value that is not finite makes every figure it enters not finite too, and is counted.
    """

    tokens: int
    max_difference: float
    """largest absolute difference of two logits"""
    worst_token: int
    """the position it occurs at"""
    mean_difference: float
    """mean absolute difference"""
    mean_kl: float
    """mean over positions of KL(reference ‖ runtime), nats"""
    max_kl: float
    top1_disagreements: int
    """positions whose largest logit belongs to another token"""
    perplexity_reference: float
    perplexity_runtime: float
    """exp of the mean −log p of the true next token, over positions that have one"""
    not_finite: int
    """logits that are NaN or infinite, in either set"""
    spread: float = 1.0
    """standard deviation of the reference's logits at a position, mean over positions: what differences are
    measured by, since models differ in how large their logits are"""

    @property
    def relative_difference(self) -> float:
        """The largest difference, in standard deviations of the reference's logits."""
        return self.max_difference / self.spread if self.spread else self.max_difference

    @property
    def top1(self) -> float:
        """Share of positions whose largest logit belongs to the same token."""
        return 1 - self.top1_disagreements / self.tokens


class Comparison:
    """Adds up an Agreement over blocks of positions."""

    def __init__(self) -> None:
        self._tokens = self._values = self._not_finite = self._disagreements = self._labelled = 0
        self._difference_sum = self._kl_sum = self._spread_sum = 0.0
        self._max_difference, self._worst_token, self._max_kl = -math.inf, -1, -math.inf
        self._nll = np.zeros(2)

    def add(
        self, positions: np.ndarray, reference: np.ndarray, runtime: np.ndarray, next_ids: np.ndarray
    ) -> None:
        """Logits are (n, n_vocab); positions (n,) say where in the sequence; next_ids (n,) are the tokens
        that follow, −1 where there is none. Raises ValueError if the shapes differ."""
        if reference.shape != runtime.shape:
            raise ValueError(f"logits of shape {reference.shape} cannot be compared with {runtime.shape}")
        rows = max(1, _BLOCK_VALUES // reference.shape[1])
        blocks = [slice(start, start + rows) for start in range(0, len(positions), rows)]
        figures = _in_threads(
            lambda block: _figures(positions[block], reference[block], runtime[block], next_ids[block]),
            blocks,
        )
        for each in figures:  # in the order of positions, so that sums do not depend on threads
            self._add(each)

    def _add(self, block: _Figures) -> None:
        self._not_finite += block.not_finite
        if not (math.isnan(self._max_difference) or block.max_difference <= self._max_difference):
            self._max_difference, self._worst_token = block.max_difference, block.worst_token
        self._difference_sum += block.difference_sum
        self._spread_sum += block.spread_sum
        self._kl_sum += block.kl_sum
        self._max_kl = float(np.maximum(self._max_kl, block.max_kl))
        self._disagreements += block.disagreements
        self._nll += block.nll
        self._labelled += block.labelled
        self._tokens += block.tokens
        self._values += block.values

    def result(self) -> Agreement:
        """Raises ValueError if nothing was added."""
        if self._tokens == 0:
            raise ValueError("no logits were compared")
        nll = self._nll / self._labelled if self._labelled else np.full(2, math.nan)
        with np.errstate(over="ignore"):
            perplexity = np.exp(nll)
        return Agreement(
            tokens=self._tokens,
            max_difference=self._max_difference,
            worst_token=self._worst_token,
            mean_difference=self._difference_sum / self._values,
            mean_kl=self._kl_sum / self._tokens,
            max_kl=self._max_kl,
            top1_disagreements=self._disagreements,
            perplexity_reference=float(perplexity[0]),
            perplexity_runtime=float(perplexity[1]),
            not_finite=self._not_finite,
            spread=self._spread_sum / self._tokens,
        )


@dataclass(frozen=True)
class _Figures:
    """What a block of positions adds to an Agreement."""

    tokens: int
    values: int
    not_finite: int
    max_difference: float
    worst_token: int
    difference_sum: float
    spread_sum: float
    kl_sum: float
    max_kl: float
    disagreements: int
    nll: np.ndarray  # (2,), of reference and runtime, sums over the labelled positions
    labelled: int


def _figures(
    positions: np.ndarray, reference: np.ndarray, runtime: np.ndarray, next_ids: np.ndarray
) -> _Figures:
    expected, found = reference.astype(np.float64), runtime.astype(np.float64)
    known = np.flatnonzero(next_ids >= 0)
    labels = next_ids[known]
    disagreements = np.count_nonzero(expected.argmax(-1) != found.argmax(-1))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the figures
        difference = np.abs(expected - found)
        worst = difference.max(axis=-1)
        difference_sum = float(difference.sum())
        not_finite = 0
        if not math.isfinite(difference_sum):
            not_finite = sum(int(np.count_nonzero(~np.isfinite(each))) for each in (expected, found))
        spread_sum = float(expected.std(axis=-1).sum())
        p = _to_log_p(expected)
        _to_log_p(found)
        kl = np.einsum("rv,rv->r", p, expected - found)
        nll = np.array([-each[known, labels].sum() for each in (expected, found)])
    row = int(np.argmax(worst))  # NaN counts as the largest
    return _Figures(
        tokens=len(positions),
        values=reference.size,
        not_finite=not_finite,
        max_difference=float(worst[row]),
        worst_token=int(positions[row]),
        difference_sum=difference_sum,
        spread_sum=spread_sum,
        kl_sum=float(kl.sum()),
        max_kl=float(kl.max()),
        disagreements=int(disagreements),
        nll=nll,
        labelled=len(known),
    )


def _to_log_p(logits: np.ndarray) -> np.ndarray:
    """Makes (n, n_vocab) logits logarithms of probabilities, in place; returns the probabilities."""
    logits -= logits.max(axis=-1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(axis=-1, keepdims=True)
    logits -= np.log(total)
    p /= total
    return p


def _in_threads(work: Callable[[slice], _Figures], blocks: list[slice]) -> Iterator[_Figures]:
    """Of every block in order; NumPy lets go of Python's lock meanwhile."""
    threads = min(len(blocks), _MOST_THREADS, os.cpu_count() or 1)
    if threads < 2:
        yield from map(work, blocks)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, blocks)
