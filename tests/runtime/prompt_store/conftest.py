"""A store of a test's own."""

import pytest

from dca_runtime import PromptStore


@pytest.fixture
def lines() -> list[str]:
    """What the store warned of."""
    return []


@pytest.fixture
def store(tmp_path, lines) -> PromptStore:
    """Small enough to fill, large enough for most tests."""
    return PromptStore(tmp_path / "store", limit=10**7, warn=lines.append)
