"""The error a user can mend: one line that says what was expected, what was found, and where."""

import importlib.metadata
import json
import urllib.parse


class InputError(Exception):
    """Bad input or usage. ``str(error)`` is the whole message, one line; commands exit with 2."""


class MissingPackage(InputError):
    """An optional package is not installed; says how to get it."""

    def __init__(self, wanted: str, extra: str) -> None:
        """``wanted``: what needs which package; ``extra``: the group of pyproject.toml that holds it."""
        super().__init__(f"{wanted}: pip install '{_installed_from()}[{extra}]'")


def _installed_from() -> str:
    """What pip is to be given to find this package again: the folder it was installed from, or its name."""
    name = "dca-export"
    try:
        origin = json.loads(importlib.metadata.distribution(name).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return name
    url = urllib.parse.urlparse(origin.get("url", ""))
    return urllib.parse.unquote(url.path) if url.scheme == "file" and "dir_info" in origin else name
