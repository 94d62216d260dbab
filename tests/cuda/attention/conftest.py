"""The attention kernels, for their own tests and those of sparse prefill's and stated budgets' kernels."""

import shutil
from typing import TYPE_CHECKING

import pytest
from shared_build import built_once

if TYPE_CHECKING:
    from attention_library import AttentionLibrary


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> "AttentionLibrary":
    """The kernels, compiled for the card that is there; skips where there is no nvcc."""
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
