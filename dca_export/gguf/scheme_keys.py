"""The GGUF keys of a Scheme (docs/format.md): written by the exporter, read back here.

`{architecture}.attention.dca.chunk_size`, `.local_window`, `.pretraining_length` (u32) and, only if the
logits are scaled, `.logit_scale` (f32) and `.logit_scale_length` (u32). In their place a file may state
STRING: `{architecture}.attention.string.border` and `.local_window` (u32). A file with neither has plain
attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import GGUFValueType

from dca_export.errors import InputError
from dca_export.scheme import Scheme, SchemeError, StringBorder

_ALWAYS = ("chunk_size", "local_window", "pretraining_length")
_IF_SCALED = {"logit_scale": GGUFValueType.FLOAT32, "logit_scale_length": GGUFValueType.UINT32}
_OF_STRING = ("border", "local_window")
_FIELDS = dict.fromkeys(_ALWAYS, GGUFValueType.UINT32) | _IF_SCALED


def scheme_key(architecture: str, field: str) -> str:
    """The full key of one field of Scheme, `architecture` being the file's general.architecture."""
    return f"{architecture}.attention.dca.{field}"


def border_key(architecture: str, field: str) -> str:
    """The full key of one field of StringBorder."""
    return f"{architecture}.attention.string.{field}"


def scheme_keys(architecture: str) -> tuple[str, ...]:
    """Every key a scheme or STRING may use; a file given another one must lose all of them first."""
    of_string = (border_key(architecture, field) for field in _OF_STRING)
    return (*(scheme_key(architecture, field) for field in _FIELDS), *of_string)


def scheme_entries(architecture: str, scheme: Scheme | None) -> dict[str, tuple[GGUFValueType, int | float]]:
    """Key to (value type, value) for `scheme`; nothing for plain attention."""
    if scheme is None:
        return {}
    fields = _FIELDS if scheme.logit_scale > 0 else _ALWAYS
    return {scheme_key(architecture, field): (_FIELDS[field], getattr(scheme, field)) for field in fields}


def border_entries(
    architecture: str, border: StringBorder | None
) -> dict[str, tuple[GGUFValueType, int | float]]:
    """Key to (value type, value) for STRING's border; nothing where there is none."""
    if border is None:
        return {}
    return {
        border_key(architecture, field): (GGUFValueType.UINT32, getattr(border, field))
        for field in _OF_STRING
    }


def read_border(metadata: Mapping[str, Any], where: str) -> StringBorder | None:
    """STRING's border that a file's metadata states, None if it states none. Raises InputError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or border_key(architecture, "border") not in metadata:
        return None
    if border_key(architecture, "local_window") not in metadata:
        missing = border_key(architecture, "local_window")
        raise InputError(f"{where}: {missing} is missing though the file states a border")
    if scheme_key(architecture, "chunk_size") in metadata:
        raise InputError(
            f"{where}: states both {scheme_key(architecture, 'chunk_size')} and "
            f"{border_key(architecture, 'border')}; a file has one of them"
        )
    try:
        return StringBorder(*(metadata[border_key(architecture, field)] for field in _OF_STRING))
    except SchemeError as error:
        raise InputError(f"{where}: {architecture}.attention.string.{error}") from None


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
