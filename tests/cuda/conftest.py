"""Fixtures of the tests that compare the CUDA backend with the CPU backend."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_models import Variant, write_variant

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


@pytest.fixture(scope="session")
def variant_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``variant_gguf(**fields of cuda_models.Variant)`` is the path of such a model's file, made once."""
    directory = tmp_path_factory.mktemp("variants")
    made: dict[Variant, Path] = {}

    def make(**fields) -> Path:
        variant = Variant(**fields)
        if variant not in made:
            made[variant] = directory / f"variant-{len(made)}.gguf"
            write_variant(made[variant], variant)
        return made[variant]

    return make
