"""Weights packed into integers by quantisers that cannot be read here, known by the tensors they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dca_export.checkpoint.tensors import Checkpoint, SourceTensor

Tensors = Mapping[str, SourceTensor]

_UNSIGNED, _SIGNED = ("U8", "torch.uint8"), ("I8", "torch.int8")


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


def _gptq_or_awq(tensors: Tensors, name: str, tensor: SourceTensor) -> str:
    """GPTQ packs along a column (in / 8, out), AWQ along a row (in, out / 8); scales are (groups, out)."""
    stem = name.removesuffix("qweight")
    scales = tensors.get(stem + "scales")
    if stem + "g_idx" in tensors or scales is None or scales.columns == tensor.columns:
        return "GPTQ"
    return "AWQ"


def _mlx(tensors: Tensors, name: str, tensor: SourceTensor) -> str | None:
    weight = tensors.get(name.removesuffix("scales") + "weight")
    return "MLX" if weight is not None and weight.dtype in ("U32", "torch.uint32") else None


def _integer_weight(tensors: Tensors, name: str, tensor: SourceTensor) -> str | None:
    stem = name.removesuffix("weight")
    if tensor.dtype in _UNSIGNED:
        if f"{name}.absmax" in tensors or any(n.startswith(f"{name}.quant_state") for n in tensors):
            return "bitsandbytes (4-bit)"
        return "ModelOpt (4-bit floats, NVFP4)" if stem + "weight_scale_2" in tensors else "4-bit packing"
    if tensor.dtype in _SIGNED:
        return "bitsandbytes (8-bit integers)" if stem + "SCB" in tensors else "8-bit integers"
    return None


_METHODS: dict[str, Callable[[Tensors, str, SourceTensor], str | None]] = {
    ".qweight": _gptq_or_awq,
    ".scales": _mlx,
    ".weight": _integer_weight,
    ".weight_packed": _always("compressed-tensors (packed integers)"),
    ".W_q": _always("HQQ"),
    ".q_weight": _always("ExLlamaV2"),
    ".trellis": _always("ExLlamaV3"),
    ".codebooks": _always("AQLM"),
    "_blocks": _always("MXFP4"),
    "._data": _always("quanto"),
}
