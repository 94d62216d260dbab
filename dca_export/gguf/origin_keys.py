"""The GGUF keys that say which repository a file was made of (docs/format.md)."""

from __future__ import annotations

from gguf import GGUFValueType

_PREFIX = "general.source.huggingface"
ORIGIN_KEYS = (f"{_PREFIX}.repository", f"{_PREFIX}.revision", f"{_PREFIX}.file")


def origin_entries(
    repository: str, commit: str, file: str | None = None
) -> dict[str, tuple[GGUFValueType, str]]:
    """Key to (value type, value). ``file``: the repository's GGUF file that was copied, if it was one."""
    values = (repository, commit, file)
    return {
        key: (GGUFValueType.STRING, value)
        for key, value in zip(ORIGIN_KEYS, values, strict=True)
        if value is not None
    }
