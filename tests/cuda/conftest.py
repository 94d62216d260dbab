"""Fixtures of all tests of the CUDA backend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status


@pytest.fixture(scope="session")
def gpu(tiny_gguf: Callable[..., Path]) -> str:
    """The name of the CUDA device; skips where there is none."""
    try:
        with Model(tiny_gguf(dtype="f16"), device="cuda") as model:
            return model.info.device
    except DcaError as error:
        if error.status != Status.DEVICE:
            raise
        pytest.skip(f"needs an NVIDIA GPU: {error}")
