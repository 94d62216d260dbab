"""The GGUF keys of a Scheme (docs/format.md): written by the exporter, read back here.

`{architecture}.attention.dca.chunk_size`, `.local_window`, `.pretraining_length` (u32) and, only if the
logits are scaled, `.logit_scale` (f32) and `.logit_scale_length` (u32). A file without the first of them
has plain attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import GGUFValueType

from dca_export.errors import InputError
from dca_export.scheme import Scheme, SchemeError

_ALWAYS = ("chunk_size", "local_window", "pretraining_length")
_IF_SCALED = {"logit_scale": GGUFValueType.FLOAT32, "logit_scale_length": GGUFValueType.UINT32}
_FIELDS = dict.fromkeys(_ALWAYS, GGUFValueType.UINT32) | _IF_SCALED


def scheme_key(architecture: str, field: str) -> str:
    """The full key of one field of Scheme, `architecture` being the file's general.architecture."""
    return f"{architecture}.attention.dca.{field}"


def scheme_keys(architecture: str) -> tuple[str, ...]:
    """Every key a scheme may use; a file given another scheme must lose all of them first."""
    return tuple(scheme_key(architecture, field) for field in _FIELDS)


def scheme_entries(architecture: str, scheme: Scheme | None) -> dict[str, tuple[GGUFValueType, int | float]]:
    """Key to (value type, value) for `scheme`; nothing for plain attention."""
    if scheme is None:
        return {}
    fields = _FIELDS if scheme.logit_scale > 0 else _ALWAYS
    return {scheme_key(architecture, field): (_FIELDS[field], getattr(scheme, field)) for field in fields}


def read_scheme(metadata: Mapping[str, Any], where: str) -> Scheme | None:
    """The scheme that a file's metadata states, None if it states none.

    `where` names the file in errors. Raises InputError if a key is missing, is of the wrong type, or the
    integers contradict each other.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or scheme_key(architecture, "chunk_size") not in metadata:
        return None
    missing = [key for key in map(lambda f: scheme_key(architecture, f), _ALWAYS) if key not in metadata]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing though the file states a chunk_size")
    fields = {
        field: metadata[scheme_key(architecture, field)]
        for field in _FIELDS
        if scheme_key(architecture, field) in metadata
    }
    try:
        return Scheme(**fields)
    except SchemeError as error:
        raise InputError(f"{where}: {architecture}.attention.dca.{error}") from None
