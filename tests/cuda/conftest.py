"""Fixtures of several tests of the CUDA backend and of its kernels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shared_build import built_once

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status

if TYPE_CHECKING:
    from attention_library import AttentionLibrary


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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> "AttentionLibrary":
    """The attention kernels, compiled for the card that is there; skips where there is no nvcc."""
    import torch
    from attention_library import AttentionLibrary

    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    major, minor = torch.cuda.get_device_capability()
    target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    return built_once(
        tmp_path_factory,
        "cuda_attention",
        lambda directory: AttentionLibrary.build(directory, (target,)),
        lambda directory: AttentionLibrary(directory / AttentionLibrary.FILE),
    )
