"""Checks what a command is given to read."""

from pathlib import Path

from dca_export.errors import InputError
from dca_runtime.model_path import hub_hint


def check_source(path: str | Path) -> None:
    """Raises InputError if nothing is at ``path``; says how to fetch what looks like a name on the Hub."""
    if not Path(path).exists():
        raise InputError(
            f"{path}: no such file or directory; expected a Hugging Face model or a .gguf file"
            f"{hub_hint(str(path))}"
        )
