"""Chooses the next token from logits."""

import array
import math
import operator
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dca_runtime import _ffi
from dca_runtime._ffi import ffi
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
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
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
    repeat_window: int = 64  # tokens that count as recent
    seed: int | None = None  # None: a different text each time
    presence_penalty: float = 0.0  # subtracted from the logits of recent tokens
    frequency_penalty: float = 0.0  # the same, times how often they occur
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to logits, by token id

    def __post_init__(self) -> None:
        self._check("temperature", "a finite number of at least 0", _number(self.temperature) >= 0)
        self._check("top_k", "an integer of at least 0", _whole(self.top_k))
        self._check("top_p", "above 0 and at most 1", 0 < _number(self.top_p) <= 1)
        self._check("min_p", "from 0 to 1", 0 <= _number(self.min_p) <= 1)
        self._check("repeat_penalty", "a finite number above 0", _number(self.repeat_penalty) > 0)
        self._check("repeat_window", "an integer of at least 0", _whole(self.repeat_window))
        self._check("presence_penalty", "a finite number", not math.isnan(_number(self.presence_penalty)))
        self._check("frequency_penalty", "a finite number", not math.isnan(_number(self.frequency_penalty)))
        self._check("logit_bias", "numbers by token id", _biases(self.logit_bias))
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
    if isinstance(value, str | bytes | bytearray):  # that spells one
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _biases(value: Any) -> bool:
    """Whether it is a mapping from ids that C can hold to numbers, of which infinities are some."""
    try:
        return all(
            0 <= operator.index(id_) < 2**31 and not math.isnan(float(bias)) for id_, bias in value.items()
        )
    except (AttributeError, TypeError, ValueError, OverflowError):
        return False


def _whole(value: Any) -> bool:
    try:
        return operator.index(value) >= 0
    except TypeError:
        return False


class Sampler:
    """Chooses token after token in the library (``dca_sample``), remembering what came before.

    A choice depends on the logits, the sampling with its seed and the token's index alone.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = replace(sampling, seed=drawn_seed(sampling))
        self._history = array.array("i")

    def see(self, ids: Iterable[int]) -> None:
        """Counts tokens of the text so far; penalties look at the last ``repeat_window`` of them."""
        self._history.extend(int(id_) for id_ in ids)

    def pick(self, logits: np.ndarray) -> int:
        """The next token's id for float ``logits`` (n_vocab,).

        -inf forbids a token; +inf wins over all that is finite. Raises DcaError if a logit is not a number,
        or if every token is forbidden.
        """
        if np.isnan(logits).any():
            raise DcaError("the model gave logits that are not numbers", Status.INTERNAL)
        values = np.ascontiguousarray(logits, np.float32)
        native, _kept = sampling_struct(self.sampling, drawn_seed(self.sampling), len(values))
        choice = ffi.new("dca_choice *")
        with ffi.from_buffer("int32_t[]", self._history) as history:
            status = _ffi.lib().dca_sample(
                ffi.from_buffer("float[]", values), len(values), history, len(self._history), native, choice
            )
        _ffi.check(status)
        if choice.token < 0:
            raise DcaError("every token is forbidden: all logits are -inf")
        self._history.append(choice.token)
        return choice.token


def drawn_seed(sampling: Sampling) -> int:
    """The sampling's seed, or a new one where it has none."""
    return secrets.randbits(64) if sampling.seed is None else operator.index(sampling.seed) % 2**64


def sampling_struct(sampling: Sampling, seed: int, n_vocab: int) -> tuple[Any, Any]:
    """(``dca_sampling *``, what it points to and must outlive it)."""
    native = _ffi.options("dca_sampling")
    for name in ("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
        setattr(native, name, _as_float32(getattr(sampling, name)))
    native.top_k = min(sampling.top_k, n_vocab)
    native.penalty_window = min(sampling.repeat_window, 2**32 - 1)
    native.seed = seed
    biases = ffi.new(
        "dca_token_value[]", [(int(id_), float(bias)) for id_, bias in sampling.logit_bias.items()]
    )
    native.biases = biases
    native.n_biases = len(biases)
    return native, biases


def _as_float32(value: float) -> float:
    """The nearest number that C's float holds, never 0 for what is not and never infinite."""
    magnitude = min(max(abs(value), _LEAST), _MOST) if value else 0.0
    return math.copysign(magnitude, value)


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a generated token was, and the likeliest ones at its place; natural logarithms."""

    id: int
    logprob: float
    top: list[tuple[int, float]]  # (id, log-probability), the likeliest first


def token_logprob(logits: np.ndarray, id_: int, top: int) -> TokenLogprob:
    """For the token ``id_`` under ``logits`` (n_vocab,), with the ``top`` likeliest."""
    finite = logits.astype(np.float64)
    if np.isposinf(finite).any():
        finite = np.where(np.isposinf(finite), 0.0, -np.inf)
    shifted = finite - finite.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(top, len(logprobs))
    likeliest = np.argpartition(-logprobs, count - 1)[:count] if count else np.arange(0)
    order = likeliest[np.argsort(-logprobs[likeliest], kind="stable")]
    return TokenLogprob(id_, float(logprobs[id_]), [(int(i), float(logprobs[i])) for i in order])
