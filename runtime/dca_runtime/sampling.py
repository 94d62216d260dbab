"""Chooses the next token from logits."""

import math
import operator
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dca_runtime.errors import DcaError, Status

# What a file recommends, as dca-export copies it from generation_config.json (docs/format.md), by field.
_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
    "repeat_window": "general.sampling.penalty_last_n",
}
_ALL = 2**31 - 1  # tokens: more than any text has


@dataclass(frozen=True)
class Sampling:
    """How to choose. The filters look at the model's own distribution; the temperature comes last.

    Raises DcaError for a value out of its range or of another type.
    """

    temperature: float = 0.7  # 0: always the likeliest token
    top_k: int = 0  # keep this many of the likeliest; 0: all
    top_p: float = 1.0  # keep the likeliest that together reach this probability; 1: all
    min_p: float = 0.05  # drop what is less likely than this share of the likeliest; 0: nothing
    repeat_penalty: float = 1.0  # logits of recent tokens are divided by it (multiplied if negative); 1: off
    repeat_window: int = 64  # tokens that count as recent, for all penalties
    presence_penalty: float = 0.0  # subtracted from the logits of recent tokens
    frequency_penalty: float = 0.0  # the same, times how often they occur
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the logits of these tokens
    seed: int | None = None  # None: a different text each time

    def __post_init__(self) -> None:
        self._check("temperature", "a finite number of at least 0", _number(self.temperature) >= 0)
        self._check("top_k", "an integer of at least 0", _whole(self.top_k))
        self._check("top_p", "above 0 and at most 1", 0 < _number(self.top_p) <= 1)
        self._check("min_p", "from 0 to 1", 0 <= _number(self.min_p) <= 1)
        self._check("repeat_penalty", "a finite number above 0", _number(self.repeat_penalty) > 0)
        self._check("repeat_window", "an integer of at least 0", _whole(self.repeat_window))
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, "a finite number", math.isfinite(_number(getattr(self, name))))
        good = all(_whole(id_) and math.isfinite(_number(bias)) for id_, bias in self.logit_bias.items())
        self._check("logit_bias", "finite numbers by token ids", good)
        self._check("seed", "an integer of at least 0, or None", self.seed is None or _whole(self.seed))

    @classmethod
    def recommended(cls, metadata: Mapping[str, Any], **fields: Any) -> "Sampling":
        """What a file's ``general.sampling.*`` keys say, with ``fields`` in their place where given.

        Raises DcaError: a value is out of range; it names the key if the file holds it. An unknown field.
        """
        unknown = fields.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise DcaError(f"no sampling option {sorted(unknown)[0]!r}; there are {known}")
        stated = {
            name: metadata[key] for name, key in _KEYS.items() if key in metadata and name not in fields
        }
        # Other engines' "off" and "all of them", which files carry.
        if isinstance(stated.get("top_k"), int):
            stated["top_k"] = max(stated["top_k"], 0)
        if stated.get("repeat_window") == -1:
            stated["repeat_window"] = _ALL
        for name, value in stated.items():
            try:
                cls(**{name: value})
            except DcaError as error:
                raise DcaError(f"the file's {_KEYS[name]}: {error}", Status.FORMAT) from None
        return cls(**stated, **fields)

    def _check(self, name: str, wanted: str, good: bool) -> None:
        if not good:
            raise DcaError(f"{name} must be {wanted}, got {getattr(self, name)!r}")


def _number(value: Any) -> float:
    """The value, or NaN, which no range holds, if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _whole(value: Any) -> bool:
    try:
        return operator.index(value) >= 0
    except TypeError:
        return False


class Sampler:
    """Chooses token after token, remembering the recent ones."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._recent: deque[int] = deque(maxlen=sampling.repeat_window)

    def see(self, ids: Iterable[int]) -> None:
        """Counts tokens of the text so far as recent."""
        self._recent.extend(int(id_) for id_ in ids)

    def pick(self, logits: np.ndarray) -> int:
        """The next token's id for float ``logits`` (n_vocab,).

        -inf forbids a token; where some are +inf, only those are chosen from. Raises DcaError if a logit is
        not a number, or if every token is forbidden.
        """
        if np.isnan(logits).any():
            raise DcaError("the model gave logits that are not numbers", Status.INTERNAL)
        with np.errstate(over="ignore"):  # a small temperature or penalty: the infinities are right
            logits = _without_plus_infinity(self._penalised(logits.astype(np.float64)))
            if self.sampling.temperature == 0:
                chosen = int(np.argmax(logits))
            else:
                candidates = self._candidates(logits)
                probabilities = softmax((logits[candidates] - logits.max()) / self.sampling.temperature)
                chosen = int(self._random.choice(candidates, p=probabilities))
        self._recent.append(chosen)
        return chosen

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        sampling = self.sampling
        if self._recent:
            recent, times = np.unique(np.fromiter(self._recent, np.int64), return_counts=True)
            values, penalty = logits[recent], sampling.repeat_penalty
            values = np.where(values > 0, values / penalty, values * penalty)
            logits[recent] = values - sampling.presence_penalty - sampling.frequency_penalty * times
        for id_, bias in sampling.logit_bias.items():
            if id_ >= len(logits):
                raise DcaError(f"logit_bias names token {id_}, the vocabulary has {len(logits)}")
            logits[id_] += bias
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


def _without_plus_infinity(logits: np.ndarray) -> np.ndarray:
    """Logits of the same meaning below +inf: (n,); DcaError if they forbid every token."""
    highest = logits.max()
    if highest == -np.inf:
        raise DcaError("every token is forbidden: all logits are -inf")
    return np.where(logits == np.inf, 0.0, -np.inf) if highest == np.inf else logits


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a generated token was, and the likeliest ones at its place; natural logarithms."""

    id: int
    logprob: float
    top: list[tuple[int, float]]  # (id, log-probability), the likeliest first


def token_logprob(logits: np.ndarray, id_: int, top: int) -> TokenLogprob:
    """For the token ``id_`` under ``logits`` (n_vocab,), with the ``top`` likeliest."""
    finite = _without_plus_infinity(logits.astype(np.float64))
    shifted = finite - finite.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(top, len(logprobs))
    likeliest = np.argpartition(-logprobs, count - 1)[:count] if count else np.arange(0)
    order = likeliest[np.argsort(-logprobs[likeliest], kind="stable")]
    return TokenLogprob(id_, float(logprobs[id_]), [(int(i), float(logprobs[i])) for i in order])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one distribution (n,)."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()
