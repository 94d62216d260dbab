"""Fixtures of all tests of the CUDA backend."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status


@pytest.fixture(scope="package", autouse=True)
def share_of_the_cores() -> Iterator[None]:
    """Each of several workers has its part of the cores: where each had all, tests took ten times longer."""
    torch = pytest.importorskip("torch")
    threads, cores = torch.get_num_threads(), sorted(os.sched_getaffinity(0))
    count = max(2, len(cores) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    first = count * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(cores)
    os.sched_setaffinity(0, (cores + cores)[first : first + count])
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, cores)


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
