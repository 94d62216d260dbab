"""Is every row of every tensor of a checkpoint in the export, and under the right name?

Counts the source's own tensors, whatever the plan says of them: a plan that forgot one would not miss it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import gguf
import numpy as np

from dca_export.checkpoint.tensors import SourceTensor
from dca_export.model.layout import PlannedTensor

# What follows from the configuration, so that no file needs it.
_BUFFERS = re.compile(r"(.*\.)?(inv_freq|(attn|attention)\.(masked_)?bias)")
# Scales of FP8 values: of a weight (multiplied into it), or of activations and caches (unused).
_SCALES = re.compile(r"(?P<module>.*\.)((?P<weight>weight)_scale(_inv)?|\w+_(scale|zero_point))")
_COMPARED_ROWS = 1024


def account(
    architecture: str, layers: int, planned: Iterable[PlannedTensor], source: Mapping[str, SourceTensor]
) -> tuple[list[str], list[str]]:
    """(problems, notes): what is wrong, and what of the source is rightly not in the file."""
    problems, notes = [], []
    used: dict[str, list[tuple[int, int]]] = {}
    made: dict[str, SourceTensor] = {}
    for target in planned:
        problems += _misnamed(architecture, layers, target)
        for piece in target.pieces:
            used.setdefault(piece.tensor.name, []).append((piece.start, piece.stop))
            made[piece.tensor.name] = piece.tensor
    computed = {name: tensor for name, tensor in made.items() if tensor.parts}
    for name, tensor in sorted(computed.items()):
        if (missing := tensor.rows - _covered(used[name])) > 0:
            problems.append(f"{missing} of {tensor.rows} rows of {name}, dequantised, are in no tensor")
    in_computed = {part for tensor in computed.values() for part in tensor.parts}
    for name, tensor in sorted(source.items()):
        if name in in_computed:
            continue
        if name in used:
            if (missing := tensor.rows - _covered(used[name])) > 0:
                problems.append(f"{missing} of {tensor.rows} rows of the source's {name} are in no tensor")
        elif (reason := _reason(tensor, source, used)) is not None:
            notes.append(f"{name} of the source is not in the file: {reason}")
        else:
            problems.append(f"the source's tensor {name} is in no tensor of the file")
    return problems, notes


def _covered(ranges: list[tuple[int, int]]) -> int:
    """How many rows lie in any of the ranges."""
    rows, end = 0, 0
    for start, stop in sorted(ranges):
        rows += max(0, stop - max(start, end))
        end = max(end, stop)
    return rows


def _reason(
    tensor: SourceTensor, source: Mapping[str, SourceTensor], used: Mapping[str, object]
) -> str | None:
    """Why a tensor may be left out; None: it may not."""
    if _BUFFERS.fullmatch(tensor.name):
        return "it follows from the configuration"
    if tensor.name.endswith(".bias") and tensor.rows == 1 and not tensor.read(0, 1).any():
        return "it is a bias of zeros"
    scale = _SCALES.fullmatch(tensor.name)
    if scale is not None and any(name.startswith(scale["module"]) for name in used):
        weight = f"{scale['module']}weight"
        return f"it scales {weight}" if scale["weight"] and weight in used else "it scales activations"
    for name in used:
        other = source.get(name)
        if other is not None and other.shape == tensor.shape and other.dtype == tensor.dtype:
            if _same(tensor, other):
                return f"it equals {name}"
    return None


def _same(one: SourceTensor, other: SourceTensor) -> bool:
    return all(
        np.array_equal(_bytes(one, start), _bytes(other, start))
        for start in range(0, one.rows, _COMPARED_ROWS)
    )


def _bytes(tensor: SourceTensor, start: int) -> np.ndarray:
    rows = tensor.read(start, min(start + _COMPARED_ROWS, tensor.rows))
    return np.ascontiguousarray(rows).view(np.uint8)


def _misnamed(architecture: str, layers: int, tensor: PlannedTensor) -> list[str]:
    """A problem, if the package gguf, which knows both worlds' names, expects another name."""
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        return []
    names = gguf.get_tensor_name_map(known[architecture], layers)
    for piece in tensor.pieces:
        expected = names.get_name(piece.tensor.name, (".weight", ".bias"))
        tied = tensor.name == "token_embd.weight" and expected == "output.weight"
        parameter = tensor.name.rpartition(".")[
            0
        ]  # a parameter that is no module's weight has no suffix there
        if expected not in (None, tensor.name, parameter) and not tied:
            return [f"tensor {tensor.name} holds {piece.tensor.name}, which belongs into {expected}"]
    return []
