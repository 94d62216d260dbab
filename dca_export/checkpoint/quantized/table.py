"""The ways of quantising that are read here, known by the tensors they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dca_export.checkpoint.quantized import awq, bitsandbytes, compressed_tensors, float4, fp8, gptq, mlx
from dca_export.checkpoint.quantized.refused import refuse_packed
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor, open_checkpoint
from dca_export.errors import InputError

FORMATS: dict[str, Callable[[Checkpoint], Iterator[SourceTensor]]] = {
    "GPTQ": gptq.weights,
    "AWQ": awq.weights,
    "bitsandbytes": bitsandbytes.weights,
    "MLX": mlx.weights,
    "compressed-tensors (integers)": compressed_tensors.weights,
    "4-bit floats": float4.weights,
}
"""Each yields the f32 matrices that its tensors stand for, with the names of those in `parts`."""

_SECTIONS = ("quantization_config", "compression_config")


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with every quantised matrix turned into the F32 one it stands for, its parts gone.

    Raises InputError if tensors are quantised in a way that is not read here, or do not fit each other.
    """
    tensors, notes = dict(checkpoint.tensors), list(checkpoint.notes)
    for name, weights in FORMATS.items():
        found = list(weights(checkpoint))
        for part in (part for weight in found for part in weight.parts):
            tensors.pop(part, None)
        tensors |= {weight.name: weight for weight in found}
        if found:
            notes.append(
                f"{_matrices(len(found))} quantised by {name}: exported as the values they stand for"
            )
    quantised = len(notes) > len(checkpoint.notes)
    tensors = mlx.experts_apart(tensors)
    read = replace(checkpoint, tensors=tensors)
    refuse_packed(read)
    result, eight_bits = fp8.dequantised(read)
    section = checkpoint.config.section(_SECTIONS[0]) or checkpoint.config.section(_SECTIONS[1])
    if section is not None and not quantised and not eight_bits:
        method = section.values.get("quant_method")
        stated = f" ({method})" if isinstance(method, str) else ""
        notes.append(f"config.json states a quantisation{stated}, but no tensor is quantised: not heeded")
    return replace(result, notes=tuple(notes))


def find_quantised(directory: Path) -> bool:
    """Whether a model directory holds weights that `dequantised` turns into others."""
    try:
        checkpoint = open_checkpoint(directory)
    except InputError:
        return False
    floats = any(tensor.dtype in fp8.VALUES for tensor in checkpoint.tensors.values())
    return floats or any(next(weights(checkpoint), None) is not None for weights in FORMATS.values())


def _matrices(count: int) -> str:
    return "1 matrix is" if count == 1 else f"{count} matrices are"
