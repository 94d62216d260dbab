"""Chooses the next token from logits."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dca_runtime.errors import DcaError, Status


@dataclass(frozen=True)
class Sampling:
    """How to choose. The filters look at the model's own distribution; the temperature comes last.

    Raises DcaError for a value out of its range.
    """

    temperature: float = 0.7  # 0: always the likeliest token
    top_k: int = 0  # keep this many of the likeliest; 0: all
    top_p: float = 1.0  # keep the likeliest that together reach this probability; 1: all
    min_p: float = 0.05  # drop what is less likely than this share of the likeliest; 0: nothing
    repeat_penalty: float = 1.0  # logits of recent tokens are divided by it (multiplied if negative); 1: off
    repeat_window: int = 64  # tokens that count as recent
    seed: int | None = None  # None: a different text each time

    def __post_init__(self) -> None:
        allowed = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repeat_penalty": (self.repeat_penalty > 0, "above 0"),
            "repeat_window": (self.repeat_window >= 0, "at least 0"),
            "seed": (self.seed is None or self.seed >= 0, "at least 0"),
        }
        for name, (good, wanted) in allowed.items():
            if not good:
                raise DcaError(f"{name} must be {wanted}, got {getattr(self, name)}")


class Sampler:
    """Chooses token after token, remembering the recent ones."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._recent: deque[int] = deque(maxlen=sampling.repeat_window)

    def see(self, ids: Iterable[int]) -> None:
        """Counts tokens of the prompt as recent."""
        self._recent.extend(int(id_) for id_ in ids)

    def pick(self, logits: np.ndarray) -> int:
        """The next token's id for float ``logits`` (n_vocab,). Raises DcaError if they are not numbers."""
        if np.isnan(logits).any():
            raise DcaError("the model gave logits that are not numbers", Status.INTERNAL)
        logits = self._penalised(logits.astype(np.float64))
        if self.sampling.temperature == 0:
            chosen = int(np.argmax(logits))
        else:
            candidates = self._candidates(logits)
            probabilities = softmax(logits[candidates] / self.sampling.temperature)
            chosen = int(self._random.choice(candidates, p=probabilities))
        self._recent.append(chosen)
        return chosen

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        penalty = self.sampling.repeat_penalty
        if penalty != 1 and self._recent:
            recent = np.unique(np.fromiter(self._recent, np.int64))
            values = logits[recent]
            logits[recent] = np.where(values > 0, values / penalty, values * penalty)
        return logits

    def _candidates(self, logits: np.ndarray) -> np.ndarray:
        """Ids that the filters keep, at least one.

        Sorting a whole vocabulary takes as long as decoding with a small model, so what ``min_p`` drops is
        dropped before ``top_p`` sorts: it is less likely than all it keeps, so no sum changes.
        """
        sampling = self.sampling
        ids = np.arange(len(logits))
        if 0 < sampling.top_k < len(ids):
            ids = np.argpartition(-logits, sampling.top_k - 1)[: sampling.top_k]
        probabilities = softmax(logits[ids])
        kept = probabilities >= sampling.min_p * probabilities.max()
        ids, probabilities = ids[kept], probabilities[kept]
        if sampling.top_p < 1:
            order = np.argsort(-probabilities, kind="stable")
            reached = np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)
            ids = ids[order[: reached + 1]]
        return ids


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one distribution (n,)."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()
