"""Ways to attend far without training whose border moves with the query: near keys at their own distance,
far ones at another, or none of them but the first.

Each rule says at what distance m = i − j a key stops being near, at which positions a query and a key are
rotated where the key is far, and which far keys are seen. A near pair is rotated at i and j, so keys that
are near to one query and far from another need two rotations.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Border:
    """What all rules have in common. Keys less than ``window`` tokens before the query are near.

    Raises ValueError for numbers that cannot be.
    """

    @property
    def window(self) -> int:
        """Distances below are near."""
        raise NotImplementedError

    @property
    def sinks(self) -> int | None:
        """Of the far keys only the first so many are seen; None: all."""
        return None

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        """Positions of the queries at absolute ``indices`` towards far keys."""
        raise NotImplementedError

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        """Positions of far keys."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReRope(Border):
    """Rectified RoPE (Su 2023): distances from ``width`` on are ``width``."""

    width: int

    def __post_init__(self) -> None:
        _at_least(1, window=self.width)

    @property
    def window(self) -> int:
        return self.width

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        return indices * 0 + self.width

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        return indices * 0


@dataclass(frozen=True)
class SelfExtend(Border):
    """Self-Extend (Jin et al. 2024, arXiv 2401.01325): far distances are those of groups of tokens,
    ⌊i / G⌋ − ⌊j / G⌋, moved by w − ⌊w / G⌋ so that they go on where the near ones end."""

    group: int
    neighbours: int

    def __post_init__(self) -> None:
        _at_least(1, group=self.group, window=self.neighbours)

    @property
    def window(self) -> int:
        return self.neighbours

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        return indices // self.group + self.neighbours - self.neighbours // self.group

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        return indices // self.group


@dataclass(frozen=True)
class String(Border):
    """STRING (An et al. 2025, arXiv 2410.18745): distances from S on are S − W less, so that none lies where
    a model was trained little. A key's rotation is the same on both sides."""

    border: int
    local: int

    def __post_init__(self) -> None:
        _at_least(1, border=self.border)
        _at_least(0, local=self.local)
        if self.local > self.border:
            raise ValueError(f"the local window is {self.local}, must be at most the border {self.border}")

    @property
    def window(self) -> int:
        return self.border

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        return indices - self.border + self.local

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        return indices


@dataclass(frozen=True)
class _SinksAndWindow(Border):
    """The first tokens and the last ones, and nothing between."""

    first: int
    last: int

    def __post_init__(self) -> None:
        _at_least(0, sinks=self.first)
        _at_least(1, window=self.last)

    @property
    def window(self) -> int:
        return self.last

    @property
    def sinks(self) -> int | None:
        return self.first


class Streaming(_SinksAndWindow):
    """StreamingLLM (Xiao et al. 2024, arXiv 2309.17453): at the positions that the tokens have in a cache of
    the first and the last ones alone."""

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        return indices.clamp(max=self.first + self.last - 1)

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        return indices


class LmInfinite(_SinksAndWindow):
    """LM-Infinite (Han et al. 2024, arXiv 2308.16137): distances from ``last`` on are ``last``."""

    def far_query(self, indices: torch.Tensor) -> torch.Tensor:
        return indices * 0 + self.last

    def far_key(self, indices: torch.Tensor) -> torch.Tensor:
        return indices * 0


# By the names that commands use, and what their numbers are.
RULES: dict[str, tuple[type[Border], tuple[str, ...]]] = {
    "rerope": (ReRope, ("WINDOW",)),
    "self-extend": (SelfExtend, ("GROUP", "WINDOW")),
    "string": (String, ("BORDER", "LOCAL")),
    "streaming": (Streaming, ("SINKS", "WINDOW")),
    "lm-infinite": (LmInfinite, ("SINKS", "WINDOW")),
}


def named(text: str) -> Border:
    """The rule of "NAME:NUMBERS", as "string:680/128". Raises ValueError."""
    name, _, written = text.partition(":")
    if name not in RULES:
        raise ValueError(f"{name!r} is none of {', '.join(RULES)}")
    kind, words = RULES[name]
    parts = written.split("/")
    if len(parts) != len(words) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"expected {name}:{'/'.join(words)}, whole numbers of tokens")
    return kind(*map(int, parts))


def name(rule: Border) -> str:
    """As ``named`` reads it."""
    kind = next(each for each, (border, _) in RULES.items() if isinstance(rule, border))
    return f"{kind}:{'/'.join(map(str, numbers(rule)))}"


def numbers(rule: Border) -> tuple[int, ...]:
    """The numbers of a rule in the order of ``RULES``."""
    return astuple(rule)


def _at_least(lowest: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(f"{name} is {value!r}, must be an integer of at least {lowest}")
