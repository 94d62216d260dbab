"""The scheme a model runs on: three integers, from its config.json or from --additional-config.

The integers mean what they mean in a GGUF file of dca-export (its docs/format.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

CONFIG_KEY = "dual_chunk_attention_config"  # in config.json
ADDITIONAL_KEY = "dca"  # in --additional-config
EXACT = "exact_"  # how keys of the section begin that state the three integers as they are

# Of Qwen's long-context models: m = max(1, 0.1 ln(n / n0) + 1).
QWEN_LOGIT_SCALE = 0.1
QWEN_LOGIT_SCALE_LENGTH = "original_max_position_embeddings"

MAX_LENGTH = 2**31 - 1  # positions are int32 in kernels


class SchemeError(ValueError):
    """A scheme that breaks a rule; one line that names the key and where it stands."""


@dataclass(frozen=True)
class Scheme:
    """A valid scheme; lengths are in tokens.

    `chunk_size` is the paper's s, `local_window` its w, `pretraining_length` its c. With `logit_scale` a > 0
    the logits of the query at index i are multiplied by m(i + 1)², m(n) = max(1, a·ln(n / n0) + 1), where
    n0 is `logit_scale_length`. Raises SchemeError unless 0 < s < c, 0 <= w <= c - s, and a comes with n0.
    """

    chunk_size: int
    local_window: int
    pretraining_length: int
    logit_scale: float = 0.0
    logit_scale_length: int = 0

    def __post_init__(self) -> None:
        s = _integer("chunk_size", self.chunk_size, 1)
        w = _integer("local_window", self.local_window, 0)
        c = _integer("pretraining_length", self.pretraining_length, 1)
        if s >= c:
            raise SchemeError(f"chunk_size is {s}, must be below pretraining_length {c}")
        if w > c - s:
            raise SchemeError(
                f"local_window is {w}, must be at most pretraining_length - chunk_size = {c - s}"
            )
        a = self.logit_scale
        if isinstance(a, bool) or not isinstance(a, int | float) or not math.isfinite(a) or a < 0:
            raise SchemeError(f"logit_scale is {a!r}, must be a finite number, 0 or more")
        _integer("logit_scale_length", self.logit_scale_length, 1 if a > 0 else 0)


def find_scheme(section: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> Scheme | None:
    """What the user asks for in --additional-config, else what config.json states, else None.

    `section` is config.json's dual_chunk_attention_config, `asked` the value of "dca" in --additional-config.
    """
    if asked is not None:
        return _read(asked, scheme_asked_for, f"--additional-config: {ADDITIONAL_KEY}")
    if section is not None:
        return _read(section, stated_scheme, f"config.json: {CONFIG_KEY}")
    return None


def _read(values: Any, reader: Any, where: str) -> Scheme:
    if not isinstance(values, Mapping):
        raise SchemeError(f"{where}: is {values!r}, must be an object")
    try:
        return reader(values)
    except SchemeError as error:
        raise SchemeError(f"{where}: {error}") from None


def scheme_asked_for(asked: Mapping[str, Any]) -> Scheme:
    """The fields of Scheme by name. pretraining_length must be there; the paper's rule gives the rest:
    s = ¾·c, w = c - s."""
    names = [field.name for field in fields(Scheme)]
    for name in asked:
        if name not in names:
            raise SchemeError(f"{name!r} is not one of {', '.join(names)}")
    if "pretraining_length" not in asked:
        raise SchemeError("has no pretraining_length (the length that the model was trained for)")
    c = _integer("pretraining_length", asked["pretraining_length"], 2)
    s = _integer("chunk_size", asked.get("chunk_size", c * 3 // 4), 1)
    return Scheme(**{"chunk_size": s, "local_window": max(0, c - s), **asked})


def stated_scheme(section: Mapping[str, Any]) -> Scheme:
    """What config.json states: exact integers where it has them, else by Qwen's arithmetic.

    Qwen counts a chunk with its local part, and its largest position is chunk_size: s = chunk_size -
    local_size, w = local_size, c = chunk_size + 1.
    """
    exact = {key.removeprefix(EXACT): value for key, value in section.items() if key.startswith(EXACT)}
    for name in [field.name for field in fields(Scheme)][:3] if exact else []:
        if name not in exact:
            raise SchemeError(f"has no {EXACT}{name}")
    if exact:
        known = {field.name for field in fields(Scheme)}
        scheme = Scheme(**{name: value for name, value in exact.items() if name in known})
        return _agreeing(scheme, section)
    for key in ("chunk_size", "local_size"):
        if key not in section:
            raise SchemeError(f"has no {key}")
    chunk = _integer("chunk_size", section["chunk_size"], 1)
    local = _integer("local_size", section["local_size"], 0)
    if local >= chunk:
        raise SchemeError(f"local_size is {local}, must be below chunk_size {chunk}")
    original = section.get(QWEN_LOGIT_SCALE_LENGTH) or 0
    return Scheme(chunk - local, local, chunk + 1, QWEN_LOGIT_SCALE if original else 0.0, original)


def _agreeing(scheme: Scheme, section: Mapping[str, Any]) -> Scheme:
    """The exact scheme, if chunk_size and local_size beside it have its chunks and its reach."""
    c = scheme.pretraining_length
    for key, value in (("chunk_size", c - 1), ("local_size", c - 1 - scheme.chunk_size)):
        if section.get(key, value) != value:
            raise SchemeError(
                f"{key} is {section[key]!r}, but the keys {EXACT}* give {value}; change both, or remove those"
            )
    return scheme


def _integer(name: str, value: Any, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_LENGTH:
        raise SchemeError(f"{name} is {value!r}, must be an integer from {lowest} to {MAX_LENGTH}")
    return value
