"""Whether the files of a model are still those that were read when its export began."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dca_export.errors import InputError

# What an export reads of a directory.
_READ = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja", "README.md"),
    *("*.model", "*.tiktoken", "*.txt", "*model*.safetensors", "*model*.bin"),
)
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class SourceFiles:
    """Size, time of change and identity of each file, as they were."""

    states: dict[Path, tuple[int, int, int]]

    @classmethod
    def of(cls, *sources: Path) -> SourceFiles:
        """The files of model directories and adapters, or all parts of GGUF files, as they are now."""
        paths = sorted(path for source in sources for path in _files(source))
        return cls({path: _state(path) for path in paths if path.is_file()})

    def check(self) -> None:
        """Raises InputError if one of them was changed, replaced or removed since."""
        for path, state in self.states.items():
            try:
                same = _state(path) == state
            except FileNotFoundError:
                same = False
            if not same:
                raise InputError(f"{path}: was changed while it was read; export again when it is complete")


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _files(source: Path) -> set[Path]:
    if source.is_dir():
        return {path for pattern in _READ for path in source.glob(pattern)}
    if part := _PART.fullmatch(source.name):
        named = ((path, _PART.fullmatch(path.name)) for path in source.parent.iterdir())
        return {path for path, found in named if found and found.groups() == part.groups()}
    return {source}
