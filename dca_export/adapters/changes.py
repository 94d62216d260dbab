"""What an adapter does to a model: adds products of two thin matrices to some tensors, replaces others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dca_export.checkpoint.tensors import SourceTensor


@dataclass(frozen=True)
class AdapterOption:
    """An adapter as the user names it: PEFT's directory or a GGUF file, and a factor on all it adds."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Addition:
    """`scale` × left @ right, added to a matrix of `shape` (rows, columns); read when it is needed.

    `left` gives (rows, rank) and `right` (rank, columns), both f32.
    """

    shape: tuple[int, int]
    rank: int
    scale: float
    left: Callable[[], np.ndarray]
    right: Callable[[], np.ndarray]
    stored: str  # the name and file of what is added, for errors

    def rows(self, start: int, stop: int) -> np.ndarray:
        """What rows [start, stop) of the matrix get, f32."""
        return (self.left()[start:stop] @ self.right()) * np.float32(self.scale)


@dataclass
class Changes:
    """One adapter, by the names of the model's tensors as transformers gives them."""

    path: Path
    base: str | None = None  # the model it says it was trained on
    additions: dict[str, list[Addition]] = field(default_factory=dict)
    replacements: dict[str, SourceTensor] = field(default_factory=dict)
    tied: bool = False  # it was trained with the output matrix tied to the embedding
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, addition: Addition) -> None:
        """Adds one more product to the tensor `name`."""
        self.additions.setdefault(name, []).append(addition)
