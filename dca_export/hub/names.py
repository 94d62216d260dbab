"""Models on the Hub as commands name them: ``hf:ORGANISATION/NAME[/FILE.gguf][@REVISION]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dca_export.errors import InputError

PREFIX = "hf:"
EXPECTED = "hf:ORGANISATION/NAME[/FILE.gguf][@REVISION]"
DEFAULT_REVISION = "main"

# As the Hub has them: letters, digits and -_. inside, no two of . or - together.
_WORD = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9_][\w./-]*", re.ASCII)
# A file's path in a repository: no way up or out, nothing that a terminal or a pattern reads otherwise.
_PART = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f*?\[\]:]{1,200}")


@dataclass(frozen=True)
class HubName:
    """A repository, perhaps one file of it, at a revision: a branch, a tag or a commit."""

    repository: str  # ORGANISATION/NAME
    file: str | None = None
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        file = "" if self.file is None else f"/{self.file}"
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{file}{revision}"

    @property
    def name(self) -> str:
        """Without the organisation."""
        return self.repository.partition("/")[2]


def is_hub_name(text: str | Path) -> bool:
    """Whether it is meant as a name on the Hub; everything else is a path (write ./hf:… for such a one)."""
    return str(text).startswith(PREFIX)


def parse(text: str | Path) -> HubName:
    """Reads such a name. Raises InputError."""
    body, at, revision = str(text).removeprefix(PREFIX).partition("@")
    organisation, _, rest = body.partition("/")
    name, slash, file = rest.partition("/")
    wrong = (
        not all(_WORD.fullmatch(word) for word in (organisation, name))
        or (slash and not (is_safe(file) and file.endswith(".gguf")))
        or (at and not _REVISION.fullmatch(revision))
    )
    if wrong:
        raise InputError(f"{text}: expected {EXPECTED}")
    return HubName(f"{organisation}/{name}", file or None, revision or DEFAULT_REVISION)


def is_safe(file: str) -> bool:
    """Whether a name out of a repository's list of files is one that stays inside a directory."""
    return all(_PART.fullmatch(part) for part in file.split("/"))
