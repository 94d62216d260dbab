"""Servers to speak to, over a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import Server, running


@pytest.fixture(scope="session")
def tiny_model(tiny_gguf) -> Path:
    """Random weights with a tokenizer and a chat template; no scheme."""
    return tiny_gguf(tokenizer=True, context_length=1024)


@pytest.fixture(scope="session")
def tiny_server(tiny_model, tmp_path_factory) -> Iterator[Server]:
    """A server of it that tests share. It is called "tiny", its context is 1024 tokens."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(tiny_model, log, "--alias", "tiny", "--cache-tokens", "8192") as server:
        yield server
