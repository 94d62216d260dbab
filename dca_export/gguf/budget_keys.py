"""The GGUF keys of stated budgets (docs/format.md): written by the exporter, read back here.

`{architecture}.attention.budget.columns` and `.diagonals` (arrays of u32, a value for each head of queries,
layer after layer), `.threshold` and `.last_queries` (u32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from dca_export.errors import InputError

MOST = 2**30  # tokens that a sequence can have: a head cannot read more
MOST_LAST_QUERIES = 1024
_FIELDS = ("columns", "diagonals", "threshold", "last_queries")


@dataclass(frozen=True)
class Budgets:
    """How many columns and diagonals each head of a prompt's queries reads."""

    columns: Sequence[Sequence[int]]
    """(layers, heads)"""
    diagonals: Sequence[Sequence[int]]
    threshold: int
    """tokens at indices below read everything"""
    last_queries: int
    """that choose"""


def budget_key(architecture: str, field: str) -> str:
    """The full key of one field of Budgets."""
    return f"{architecture}.attention.budget.{field}"


def budget_keys(architecture: str) -> tuple[str, ...]:
    """Every key of budgets; a file given others must lose all of them first."""
    return tuple(budget_key(architecture, field) for field in _FIELDS)


def budget_entries(architecture: str, budgets: Budgets | None) -> dict[str, tuple[GGUFValueType, Any]]:
    """Key to (value type, value); nothing where none are stated."""
    if budgets is None:
        return {}
    flat = {
        field: [value for layer in getattr(budgets, field) for value in layer]
        for field in ("columns", "diagonals")
    }
    return {
        budget_key(architecture, field): (GGUFValueType.ARRAY, values) for field, values in flat.items()
    } | {
        budget_key(architecture, field): (GGUFValueType.UINT32, getattr(budgets, field))
        for field in ("threshold", "last_queries")
    }


def read_budgets(metadata: Mapping[str, Any], where: str) -> Budgets | None:
    """The budgets that a file's metadata states, None if it states none. Raises InputError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or budget_key(architecture, "columns") not in metadata:
        return None
    for key in budget_keys(architecture):
        if key not in metadata:
            raise InputError(f"{where}: {key} is missing though the file states budgets")
    layers = metadata[f"{architecture}.block_count"]
    columns, diagonals, threshold, last = (metadata[key] for key in budget_keys(architecture))

    def by_layer(values: Any, field: str) -> list[list[int]]:
        flat = list(values)
        if not flat or len(flat) % layers:
            raise InputError(
                f"{where}: {budget_key(architecture, field)} has {len(flat)} values, expected one for each "
                f"head of {layers} layers"
            )
        heads = len(flat) // layers
        return [[int(each) for each in flat[layer * heads : (layer + 1) * heads]] for layer in range(layers)]

    return Budgets(by_layer(columns, "columns"), by_layer(diagonals, "diagonals"), int(threshold), int(last))
