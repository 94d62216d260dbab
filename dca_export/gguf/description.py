"""What a GGUF file tells people about a model: name, licence, generation defaults and the like.

None of it is needed to run the model, so what cannot be understood is passed over.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType

from dca_export.errors import InputError
from dca_export.gguf.packing import check_packable

_WHOLE_NUMBERS = ("sampling_top_k", "sampling_penalty_last_n", "sampling_mirostat")
_LISTS = ("tags", "languages")
_TABLES = ("base_models", "datasets")

MAX_CARD_BYTES = 4 << 20
MAX_FACTS_BYTES = 64 << 10  # published ones have up to some 10 KB

# Folders of a hub's cache, whose names say nothing: models--ORGANISATION--NAME/snapshots/HASH.
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CACHE_FOLDERS = ("snapshots", "blobs", "refs")
_CACHED = re.compile(r"models--(?:.+?--)?(.+)")


def add_description(writer: gguf.GGUFWriter, directory: Path, parameters: int) -> None:
    """Adds the general.* keys that follow from the model card, generation_config.json and the name."""
    directory = directory.resolve()
    description = _read(directory, parameters)
    for name, value in vars(description).items():
        setattr(description, name, _usable(name, value))
    description.name = description.name or _usable("name", model_name(directory)) or "model"
    if description.size_label is None:
        description.size_label = gguf.size_label(*writer.get_total_parameter_count())
    description.set_gguf_meta_model(writer)


def model_name(directory: Path) -> str:
    """What a model directory is called; in a hub's cache its own name is a hash, and one above tells."""
    for folder in (directory, *directory.parents):
        if not _HASH.fullmatch(folder.name) and folder.name not in _CACHE_FOLDERS:
            cached = _CACHED.fullmatch(folder.name)
            return cached[1] if cached else folder.name
    return directory.name


def _read(directory: Path, parameters: int) -> gguf.Metadata:
    if _is_too_much(directory / "README.md"):
        return gguf.Metadata()
    logging.getLogger("metadata").setLevel(logging.CRITICAL)  # it says what it cannot understand
    try:
        description = gguf.Metadata.load(None, directory, None, parameters)
        if model_name(directory) != directory.name:
            # What gguf took from the folder's name came from a hash: once more, with the name that tells.
            from_name = gguf.Metadata.apply_metadata_heuristic(
                gguf.Metadata(),
                gguf.Metadata.load_model_card(directory),
                gguf.Metadata.load_hf_parameters(directory),
                directory.with_name(model_name(directory)),
                parameters,
            )
            for name in ("name", "organization", "basename", "finetune", "version", "size_label"):
                setattr(description, name, getattr(from_name, name))
    except Exception:  # gguf trusts the shape of what people write into model cards
        return gguf.Metadata()
    return description


def _is_too_much(card: Path) -> bool:
    """Whether a model card has more than gguf, which reads it whole, is to be given.

    Only the facts before its text are parsed; YAML's merge keys (<<), which none has, multiply in each other.
    """
    if not card.is_file():
        return False
    with open(card, "rb") as file:
        beginning = file.read(MAX_CARD_BYTES + 1)
    facts = beginning.partition(b"\n---")[0]
    return len(beginning) > MAX_CARD_BYTES or len(facts) > MAX_FACTS_BYTES or b"<<" in facts


def _usable(name: str, value: Any) -> Any:
    """A value if its key in GGUF can hold it, without the parts that it cannot hold; else None."""
    if name.startswith("sampling_"):
        return value if _is_sampling_value(name, value) else None
    if name in _LISTS or isinstance(value, list) and name == "license":
        return [text for text in value if _is_text(text)] or None if isinstance(value, list) else None
    if name in _TABLES:
        rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
        return [{key: text for key, text in row.items() if _is_text(text)} for row in rows] or None
    return value if _is_text(value) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and _can_be("text", GGUFValueType.STRING, value)


def _is_sampling_value(name: str, value: Any) -> bool:
    """Whether a value of generation_config.json has the type that its key has in GGUF."""
    if name == "sampling_sequence":
        return _is_text(value)
    whole = name in _WHOLE_NUMBERS
    if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
        return False
    return _can_be(name, GGUFValueType.INT32 if whole else GGUFValueType.FLOAT32, value)


def _can_be(name: str, kind: GGUFValueType, value: Any) -> bool:
    try:
        check_packable("", name, kind, value)
    except InputError:
        return False
    return True
