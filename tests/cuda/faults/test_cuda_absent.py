"""Asking for CUDA where it cannot be had, and where it is asked for wrongly."""

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status


@pytest.fixture
def no_gpu(tiny_gguf):
    try:
        with Model(tiny_gguf(dtype="f16"), device="cuda"):
            pytest.skip("there is a GPU")
    except DcaError as error:
        return error


def test_says_what_is_missing_and_what_to_do(no_gpu):
    assert no_gpu.status == Status.DEVICE
    assert "take device cpu" in str(no_gpu)
    assert "\n" not in str(no_gpu)


def test_auto_falls_back_to_the_cpu(no_gpu, tiny_gguf):
    with Model(tiny_gguf(dtype="f16"), device="auto") as model:
        assert model.info.device.startswith("cpu")


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cudax", "gpu", ""])
def test_unknown_devices(tiny_gguf, device):
    with pytest.raises(DcaError, match="must be cpu, cuda, cuda:N or auto") as refused:
        Model(tiny_gguf(), device=device)
    assert refused.value.status == Status.ARGUMENT
