"""A GGUF file's metadata, read with every value checked before it is believed."""

from __future__ import annotations

from typing import Any

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile

_MISSING = object()


class Keys:
    """Keys under the architecture's prefix; an error names the file and the key."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.names = {tensor.name for tensor in file.tensors}

    def get(self, key: str, default: Any = _MISSING, kind: type | tuple[type, ...] = int) -> Any:
        name = f"{self.file.architecture}.{key}"
        value = self.file.get(name, default)
        if value is _MISSING:
            raise InputError(f"{self.file.path}: {name} is missing")
        if value is not default and (
            not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
        ):
            raise InputError(f"{self.file.path}: {name} is {value!r}, which is not of the type expected")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        return self.get(key, default, (int, float))

    def uniform(self, key: str, default: Any = _MISSING) -> int:
        """A count given once or, the same each time, once a layer."""
        value = self.get(key, default, (int, list))
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise InputError(
                    f"{self.file.path}: {key} differs from layer to layer, which is not supported"
                )
            return value[0]
        return value

    def has(self, tensor: str) -> bool:
        return tensor in self.names
