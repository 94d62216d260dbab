"""Fixtures of the tests that compare the CUDA backend with the CPU backend."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status

# Two ranks on one card wait for each other in kernels: one that is loaded only when it is first launched,
# or launched behind another stream's, would wait for that one.
os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")


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
