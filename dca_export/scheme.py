"""The scheme of Dual Chunk Attention: three integers and the positions they give.

Equations are those of An et al., "Training-Free Long-Context Scaling of Large Language Models"
(ICML 2024, arXiv 2402.17463). Plain attention has no scheme and is written ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from dca_export.errors import InputError

# The files and the native runtime hold the three integers as u32 and compute positions as i32.
MAX_LENGTH = 2**31 - 1

# How fast Qwen's long-context models sharpen their softmax: m = max(1, 0.1 ln(n / n0) + 1).
QWEN_LOGIT_SCALE = 0.1

# How the keys of `dual_chunk_attention_config` begin that state a scheme as it is (docs/serving.md). They lie
# flat beside the others, because engines use the values there as keys of a dictionary of their own.
EXACT = "exact_"


class SchemeError(InputError, ValueError):
    """A scheme that breaks 0 < chunk_size < pretraining_length or another rule; names the field."""


class QueryPositions(NamedTuple):
    """Position of each query towards the three kinds of keys; int64 arrays of one length."""

    intra: np.ndarray
    """towards keys of its own chunk (eq. 2)"""
    successive: np.ndarray
    """towards keys of the chunk before (eq. 7)"""
    inter: np.ndarray
    """towards keys of all earlier chunks (eq. 5)"""


@dataclass(frozen=True)
class Scheme:
    """A valid Dual Chunk Attention scheme; lengths are in tokens.

    ``chunk_size`` is the paper's s, ``local_window`` its w, ``pretraining_length`` its c: no relative
    position above c - 1 is ever used. With ``logit_scale`` a > 0 the logits of the query at index i are
    multiplied by m(i + 1)², m(n) = max(1, a·ln(n / logit_scale_length) + 1).

    Raises SchemeError unless 0 < s < c, 0 <= w <= c - s, and the logit scale is finite, not negative, and
    comes with its length.
    """

    chunk_size: int
    local_window: int
    pretraining_length: int
    logit_scale: float = 0.0
    logit_scale_length: int = 0

    def __post_init__(self) -> None:
        s, w, c = (
            self._checked_integer(name, lowest)
            for name, lowest in (("chunk_size", 1), ("local_window", 0), ("pretraining_length", 1))
        )
        if s >= c:
            raise SchemeError(f"chunk_size is {s}, must be below pretraining_length {c}")
        if w > c - s:
            raise SchemeError(
                f"local_window is {w}, must be at most pretraining_length - chunk_size = {c - s}"
            )
        a = self.logit_scale
        if isinstance(a, bool) or not isinstance(a, int | float) or not math.isfinite(a) or a < 0:
            raise SchemeError(f"logit_scale is {a!r}, must be a finite number, 0 or more")
        self._checked_integer("logit_scale_length", 1 if a > 0 else 0)

    def _checked_integer(self, name: str, lowest: int) -> int:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_LENGTH:
            raise SchemeError(f"{name} is {value!r}, must be an integer from {lowest} to {MAX_LENGTH}")
        return value

    @classmethod
    def paper(cls, trained_length: int) -> Scheme:
        """The paper's defaults for a model trained on `trained_length` tokens: s = ¾·c, w = c - s."""
        _check_trained_length(trained_length)
        chunk_size = trained_length * 3 // 4
        return cls(chunk_size, trained_length - chunk_size, trained_length)

    @classmethod
    def chunkllama(cls, trained_length: int) -> Scheme:
        """The arithmetic of ChunkLlama's published code: its chunk is ¾·L, its local part L / 8."""
        _check_trained_length(trained_length)
        return cls._from_chunk_and_local(trained_length * 3 // 4, trained_length // 8)

    @classmethod
    def from_dual_chunk_config(cls, config: Mapping[str, Any]) -> Scheme:
        """The scheme that `dual_chunk_attention_config` of a model's config.json states.

        Exact integers win where it has them (`as_dual_chunk_config`), but what stands beside them must be
        theirs. Else it is Qwen's arithmetic: where it names original_max_position_embeddings, the logits are
        sharpened beyond that length.
        """
        if any(key.startswith(EXACT) for key in config):
            return cls._from_exact(config)
        chunk, local = (_config_integer(config, key) for key in ("chunk_size", "local_size"))
        if local >= chunk:
            raise SchemeError(
                f"dual_chunk_attention_config: local_size is {local}, must be below chunk_size {chunk}"
            )
        original = 0
        if config.get("original_max_position_embeddings"):
            original = _config_integer(config, "original_max_position_embeddings")
        return cls._from_chunk_and_local(chunk, local, QWEN_LOGIT_SCALE if original else 0.0, original)

    @classmethod
    def _from_exact(cls, config: Mapping[str, Any]) -> Scheme:
        names = [field.name for field in fields(cls)]
        for name in names[:3]:
            if EXACT + name not in config:
                raise SchemeError(f"dual_chunk_attention_config has no {EXACT}{name}")
        scheme = cls(**{name: config[EXACT + name] for name in names if EXACT + name in config})
        for key, value in scheme.nearest_dual_chunk()._in_qwens_arithmetic().items():
            if config.get(key, value) != value:
                raise SchemeError(
                    f"dual_chunk_attention_config: {key} is {config[key]!r}, but the keys {EXACT}* give "
                    f"{value}; change both, or remove those"
                )
        return scheme

    @classmethod
    def _from_chunk_and_local(
        cls, chunk: int, local: int, logit_scale: float = 0.0, logit_scale_length: int = 0
    ) -> Scheme:
        """Both parameterisations count a chunk with its local part; their largest position is `chunk`."""
        return cls(chunk - local, local, chunk + 1, logit_scale, logit_scale_length)

    def nearest_dual_chunk(self) -> Scheme:
        """The nearest scheme that Qwen's chunk_size and local_size can state: this one, if they can.

        Of them c is s + w + 1 always; chunks and the largest position are kept, the window gives way. Its
        logit scale is 0.1 or none.
        """
        window = self.pretraining_length - 1 - self.chunk_size
        sharpens = self.logit_scale > 0
        return Scheme(
            self.chunk_size,
            window,
            self.pretraining_length,
            QWEN_LOGIT_SCALE if sharpens else 0.0,
            self.logit_scale_length if sharpens else 0,
        )

    def as_dual_chunk_config(self) -> dict[str, Any]:
        """The scheme as `dual_chunk_attention_config` states it, exactly.

        chunk_size and local_size are those of the nearest scheme in Qwen's arithmetic, for engines that know
        nothing else; this scheme's own numbers stand beside them.
        """
        exact = {EXACT + field.name: getattr(self, field.name) for field in fields(self)}
        if self.logit_scale == 0:
            del exact[EXACT + "logit_scale"], exact[EXACT + "logit_scale_length"]
        return self.nearest_dual_chunk()._in_qwens_arithmetic() | exact

    def _in_qwens_arithmetic(self) -> dict[str, int]:
        """A scheme that is its own nearest_dual_chunk."""
        config = {"chunk_size": self.chunk_size + self.local_window, "local_size": self.local_window}
        if self.logit_scale > 0:
            config["original_max_position_embeddings"] = self.logit_scale_length
        return config

    def key_positions(self, n: int) -> np.ndarray:
        """P_k of the first `n` tokens (eq. 2), int64 (n,). They do not depend on the query."""
        return np.arange(n, dtype=np.int64) % self.chunk_size

    def query_positions(self, n: int) -> QueryPositions:
        """P_intra (eq. 2), P_succ (eq. 7) and P_inter (eq. 5) of the first `n` tokens, int64 (n,) each."""
        last = self.pretraining_length - 1
        intra = self.key_positions(n)
        successive = np.where(intra < self.local_window, self.chunk_size + intra, last)
        return QueryPositions(intra, successive, np.full(n, last, dtype=np.int64))

    def relative_positions(self, n: int) -> np.ndarray:
        """The matrix M of eq. 8: entry (i, j) is the distance that query i sees to key j <= i.

        int64 (n, n); -1 above the diagonal, where nothing is seen. Needs O(n²) memory.
        """
        chunk = np.arange(n, dtype=np.int64) // self.chunk_size
        gap = chunk[:, None] - chunk[None, :]
        queries = self.query_positions(n)
        query = np.where(
            gap == 0,
            queries.intra[:, None],
            np.where(gap == 1, queries.successive[:, None], queries.inter[:, None]),
        )
        return np.where(np.tri(n, dtype=bool), query - self.key_positions(n)[None, :], -1)


@dataclass(frozen=True)
class StringBorder:
    """STRING (An et al. 2025, arXiv 2410.18745) in place of a scheme; lengths are in tokens.

    Distances m of query and key below ``border`` S are kept, from there on they are m - S + W, W being
    ``local_window``. Raises SchemeError unless 0 < S <= 2^30 and 0 <= W <= S.
    """

    border: int
    local_window: int

    def __post_init__(self) -> None:
        most = 2**30
        for name, lowest, highest in (("border", 1, most), ("local_window", 0, self.border)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise SchemeError(f"{name} is {value!r}, must be an integer from {lowest} to {highest}")


def _check_trained_length(length: int) -> None:
    if isinstance(length, bool) or not isinstance(length, int) or not 2 <= length <= MAX_LENGTH:
        raise SchemeError(f"pretraining_length is {length!r}, must be an integer from 2 to {MAX_LENGTH}")


def _config_integer(config: Mapping[str, Any], key: str) -> int:
    if key not in config:
        raise SchemeError(f"dual_chunk_attention_config has no {key}")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_LENGTH:
        raise SchemeError(
            f"dual_chunk_attention_config: {key} is {value!r}, must be an integer from 0 to {MAX_LENGTH - 1}"
        )
    return value
