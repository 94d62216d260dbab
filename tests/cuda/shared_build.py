"""A library that is compiled once for all of pytest's workers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Library = TypeVar("Library")


def built_once(
    factory: pytest.TempPathFactory,
    name: str,
    build: Callable[[Path], Library],
    load: Callable[[Path], Library],
) -> Library:
    """``build(directory)`` by the first worker that comes, ``load(directory)`` by the others, who wait.

    Every worker compiling for itself would take minutes of all cores, longer than a test's time limit.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    directory = root / name
    directory.mkdir(exist_ok=True)
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "built").exists():
            return load(directory)
        library = build(directory)
        (directory / "built").touch()
        return library
