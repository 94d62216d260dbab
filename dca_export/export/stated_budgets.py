"""The budgets of columns and diagonals that a checkpoint states (Qwen2.5-1M, Qwen3-2507-1M)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dca_export.config import Config, read_json
from dca_export.errors import InputError
from dca_export.gguf.budget_keys import MOST, MOST_LAST_QUERIES, Budgets
from dca_export.model.rope import DUAL_CHUNK
from dca_export.small_files import is_there

BUDGETS_FILE = "sparse_attention_config.json"  # beside config.json
_KIND = "vertical_and_slash"
_EXPECTED = f'expected ["{_KIND}", columns, diagonals, score]'
# What serving code assumed where config.json does not say.
_THRESHOLD, _LAST_QUERIES = 32768, 64
# It read 30 columns, which its first 30 alone use up, as 130.
_TOO_FEW, _INSTEAD = 30, 130


def stated_budgets(
    config: Config, directory: Path, layers: int, heads: int
) -> tuple[Budgets | None, list[str]]:
    """The budgets of `directory`, for `layers` of `heads` heads of queries, and notes on them; None: it
    states none, or turns them off. Raises InputError."""
    section = config.section(DUAL_CHUNK) or Config({}, config.where)
    file = directory / BUDGETS_FILE
    if "sparse_attention_config" in section:
        values, where = section.values["sparse_attention_config"], f"{section.where}: sparse_attention_config"
    elif is_there(file):
        values, where = read_json(file), str(file)
    else:
        wanted = section.boolean("sparse_attention_enabled", False)
        return None, [f"{DUAL_CHUNK} turns sparse attention on, but there is no {BUDGETS_FILE}"] * wanted
    if not section.boolean("sparse_attention_enabled", True):
        return None, [f"{DUAL_CHUNK} turns sparse attention off: its budgets are not written"]
    found = [
        [_head(each, f"{where}: layer {layer}, head {head}") for head, each in enumerate(of_layer)]
        for layer, of_layer in enumerate(
            _numbered(each, heads, f"{where}: layer {number}", "heads")
            for number, each in enumerate(_numbered(values, layers, where, "layers"))
        )
    ]
    last = section.integer("sparse_attention_last_q", _LAST_QUERIES)
    if last > MOST_LAST_QUERIES:
        raise section.error("sparse_attention_last_q", f"must be at most {MOST_LAST_QUERIES}")
    budgets = Budgets(
        [[columns for columns, _ in layer] for layer in found],
        [[diagonals for _, diagonals in layer] for layer in found],
        min(section.integer("sparse_attention_threshold", _THRESHOLD, lowest=0), MOST),
        last,
    )
    return budgets, [f"budgets of {layers} × {heads} heads of queries for --prefill stated ({where})"]


def _numbered(values: Any, count: int, where: str, what: str) -> list[Any]:
    """`count` values, given as a list or by their numbers as text."""
    if isinstance(values, Mapping):
        wanted = [str(number) for number in range(count)]
        if set(values) != set(wanted):
            raise InputError(f"{where}: expected the {what} 0 to {count - 1}, found {_shown(sorted(values))}")
        return [values[number] for number in wanted]
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        raise InputError(f"{where}: expected {count} {what}, as config.json has, found {found}")
    return values


def _head(value: Any, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) not in (3, 4) or value[0] != _KIND:
        raise InputError(f"{where}: {_EXPECTED}, found {_shown(value)}")
    columns, diagonals = value[1], value[2]
    for number, least in ((columns, 0), (diagonals, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MOST:
            raise InputError(f"{where}: {_EXPECTED} with integers up to {MOST}, found {_shown(value)}")
    return (_INSTEAD if columns == _TOO_FEW else columns), diagonals


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
