"""What an error says of a package that is missing."""

import importlib.metadata
import json

import pytest

from dca_export.errors import MissingPackage


class Installed:
    def __init__(self, origin: dict | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ({"url": "file:///home/a%20b/clone", "dir_info": {"editable": True}}, "/home/a b/clone[eval]"),
        ({"url": "file:///home/x/clone", "dir_info": {}}, "/home/x/clone[eval]"),
        ({"url": "file:///tmp/dca_export-0.1.0.whl", "archive_info": {}}, "dca-export[eval]"),
        (None, "dca-export[eval]"),
    ],
)
def test_pip_is_given_what_it_was_given_before(monkeypatch, origin, wanted):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    assert str(MissingPackage("plots need matplotlib", "eval")) == (
        f"plots need matplotlib: pip install '{wanted}'"
    )


def test_without_an_installation_it_is_the_packages_name(monkeypatch):
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert str(MissingPackage("a", "eval")) == "a: pip install 'dca-export[eval]'"
