"""How well two sets of logits agree, token by token: differences, KL divergence, top-1, perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Logits looked at together; in float64 a few arrays of this size are held.
_BLOCK_VALUES = 1 << 21


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
        for start in range(0, len(positions), rows):
            block = slice(start, start + rows)
            self._add_block(positions[block], reference[block], runtime[block], next_ids[block])

    def _add_block(
        self, positions: np.ndarray, reference: np.ndarray, runtime: np.ndarray, next_ids: np.ndarray
    ) -> None:
        logits = np.stack((reference, runtime)).astype(np.float64)
        self._not_finite += int(np.count_nonzero(~np.isfinite(logits)))
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the figures
            difference = np.abs(logits[0] - logits[1])
            log_p = logits - logits.max(axis=-1, keepdims=True)
            log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
            kl = (np.exp(log_p[0]) * (log_p[0] - log_p[1])).sum(axis=-1)
        worst = difference.max(axis=-1)
        row = int(np.argmax(worst))  # NaN counts as the largest
        if not (math.isnan(self._max_difference) or worst[row] <= self._max_difference):
            self._max_difference, self._worst_token = float(worst[row]), int(positions[row])
        self._difference_sum += float(difference.sum())
        self._kl_sum += float(kl.sum())
        with np.errstate(invalid="ignore", over="ignore"):
            self._spread_sum += float(logits[0].std(axis=-1).sum())
        self._max_kl = float(np.maximum(self._max_kl, kl.max()))
        self._disagreements += int(np.count_nonzero(logits[0].argmax(-1) != logits[1].argmax(-1)))
        known = np.flatnonzero(next_ids >= 0)
        self._nll -= log_p[:, known, next_ids[known]].sum(axis=-1)
        self._labelled += len(known)
        self._tokens += len(positions)
        self._values += difference.size

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
