"""Weights quantised in ways that are not read here, known by the tensors they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dca_export.checkpoint.tensors import Checkpoint, SourceTensor

Tensors = Mapping[str, SourceTensor]


def refuse_packed(checkpoint: Checkpoint) -> None:
    """Raises InputError, naming the method, if a tensor holds packed or integer weights."""
    for name, tensor in checkpoint.tensors.items():
        for suffix, method in _METHODS.items():
            if name.endswith(suffix) and (found := method(checkpoint.tensors, name, tensor)):
                raise tensor.error(
                    f"is quantised by {found}, which cannot be read; use the unquantised model"
                )


def _always(method: str) -> Callable[[Tensors, str, SourceTensor], str]:
    return lambda tensors, name, tensor: method


def _integer_weight(tensors: Tensors, name: str, tensor: SourceTensor) -> str | None:
    return {"U8": "4-bit packing", "I8": "8-bit integers", "U32": "32-bit packing"}.get(tensor.dtype)


_METHODS: dict[str, Callable[[Tensors, str, SourceTensor], str | None]] = {
    ".qweight": _always("a packing akin to GPTQ and AWQ"),
    ".weight": _integer_weight,
    ".weight_packed": _always("compressed-tensors (another packing)"),
    ".W_q": _always("HQQ"),
    ".q_weight": _always("ExLlamaV2"),
    ".trellis": _always("ExLlamaV3"),
    ".codebooks": _always("AQLM"),
    "_blocks": _always("MXFP4"),
    "._data": _always("quanto"),
}
