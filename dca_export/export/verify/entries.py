"""The metadata of a GGUF file against what its source implies, every entry of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf

from dca_export.export.plan import SPLIT_KEYS, DirectoryPlan
from dca_export.export.weighting import IMATRIX_KEYS
from dca_export.export.write import add_metadata
from dca_export.gguf.file import GgufFile
from dca_export.gguf.origin_keys import ORIGIN_KEYS
from dca_export.gguf.scheme_keys import scheme_keys
from dca_export.gguf.tune_keys import TUNE_KEYS

# Follow from how the file was made, not from its source.
_MADE = (
    "general.file_type",
    "general.quantization_version",
    *SPLIT_KEYS,
    *IMATRIX_KEYS,
    *ORIGIN_KEYS,
    *TUNE_KEYS,
)
# Said of a model for people, partly from the name of its directory, which may have changed since.
_TOLD = ("general.name", "general.basename", "general.organization", "general.finetune", "general.version")
_TOLD_TOO = ("general.size_label", "general.description")

_SHOWN = 60  # characters of a value


def entries_of(plan: DirectoryPlan) -> GgufFile:
    """Every entry of the file that `plan` describes: a file of no tensors."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "entries.gguf"
        writer = gguf.GGUFWriter(path, plan.architecture)
        add_metadata(writer, plan)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return GgufFile(path)


def compare_entries(file: GgufFile, expected: GgufFile) -> tuple[list[str], list[str]]:
    """(problems, notes): entries that are missing, different or in no source, but for the scheme's."""
    passed_over = {*_MADE, *scheme_keys(file.architecture)}
    problems: list[str] = []
    notes: list[str] = []
    for key in _ordered(file, expected):
        if key in passed_over:
            continue
        found = notes if key in (*_TOLD, *_TOLD_TOO) else problems
        if key not in file:
            found.append(f"{key} is missing, the source implies {_shown(expected[key])}")
        elif key not in expected:
            found.append(f"{key} is {_shown(file[key])}, the source implies no such entry")
        elif file.value_bytes(key) != expected.value_bytes(key):
            found.append(_difference(key, file[key], expected[key]))
    return problems, notes


def _ordered(file: Iterable[str], expected: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*expected, *file]))


def _difference(key: str, found: Any, wanted: Any) -> str:
    if isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            return f"{key} has {len(found)} elements, the source implies {len(wanted)}"
        differ = [index for index, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
        if differ:
            first = differ[0]
            return (
                f"{key} differs in {len(differ)} elements, first {first}: {_shown(found[first])}, the source "
                f"implies {_shown(wanted[first])}"
            )
    if found == wanted:
        return f"{key} is stored as another type of number than the source implies"
    return f"{key} is {_shown(found)}, the source implies {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
