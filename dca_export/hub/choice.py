"""Which files of a repository are needed: its one GGUF file to run, or what an export reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dca_export.errors import InputError
from dca_export.hub.names import HubName, is_safe

# The types in the order in which a file is taken: what fits most machines and is good, then better ones, then
# smaller ones (docs/hub.md).
PREFERRED = (
    "q4_k_m",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q4_k_s",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "f16",
    "bf16",
)
_PREFERRED_LAST = ("f32",)

# Beside the weights: what dca_export reads of a model directory.
_CONFIGURATION = (
    "config.json",
    "config_1m.json",
    "sparse_attention_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "adapter_config.json",
    "quantize_config.json",
    "quant_config.json",
    "README.md",
)
_WEIGHTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))  # as find_weights looks for them
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_NO_MODEL = re.compile(r"(^|[/._-])(mmproj|imatrix|lora|vocab|draft|mtp)([/._-]|$)", re.IGNORECASE)


def gguf_files(files: Iterable[str]) -> list[str]:
    """The repository's models that are one GGUF file each, the one to take first. No projectors, adapters."""
    models = [
        file
        for file in files
        if file.lower().endswith(".gguf") and not _SPLIT.search(file) and not _NO_MODEL.search(file)
    ]
    return sorted(models, key=lambda file: (_rank(file), file.count("/"), file))


def chosen_gguf(name: HubName, files: Iterable[str]) -> str | None:
    """The GGUF file that ``name`` means; None: the repository has none. Raises InputError."""
    found = gguf_files(files)
    if name.file is None:
        return _checked(name, found[0]) if found else None
    if name.file in files:
        return _checked(name, name.file)
    there = f"; it has {', '.join(found[:8])}{', …' if len(found) > 8 else ''}" if found else ""
    raise InputError(f"{name}: the repository has no file {name.file}{there}")


def checkpoint_files(name: HubName, files: Iterable[str]) -> list[str]:
    """What an export reads of a checkpoint; empty: the repository holds none. Raises InputError."""
    top = {file for file in files if "/" not in file}
    weights = _weights(top)
    if "config.json" not in top or not weights:
        return []
    templates = {file for file in files if re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", file)}
    return [_checked(name, file) for file in sorted((top & set(_CONFIGURATION)) | weights | templates)]


def _weights(top: set[str]) -> set[str]:
    for stem, suffix in _WEIGHTS:
        if f"{stem}{suffix}" in top:
            return {f"{stem}{suffix}"}
        shards = {file for file in top if re.fullmatch(rf"{stem}-\d+-of-\d+{re.escape(suffix)}", file)}
        if shards:
            return shards | (top & {f"{stem}{suffix}.index.json"})
    return set()


def _rank(file: str) -> int:
    base = file.lower().rpartition("/")[2]
    order = (*PREFERRED, None, *_PREFERRED_LAST)
    named = [
        kind for kind in (*PREFERRED, *_PREFERRED_LAST) if re.search(rf"(^|[^a-z0-9]){kind}\.gguf$", base)
    ]
    return order.index(named[0] if named else None)


def _checked(name: HubName, file: str) -> str:
    """The name of a file out of a stranger's list. Raises InputError if it leads out of a directory."""
    if not is_safe(file):
        raise InputError(
            f"{name}: the repository lists a file {file[:80]!r}, a name that is not taken from strangers"
        )
    return file
