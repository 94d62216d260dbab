"""Merges adapters into a checkpoint, each tensor when it is read: W + Σ scale × left @ right, in f32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dca_export.adapters.changes import AdapterOption, Addition, Changes
from dca_export.adapters.gguf_lora import read_gguf_lora
from dca_export.adapters.peft import read_peft
from dca_export.checkpoint.tensors import Checkpoint, SourceTensor, values
from dca_export.checkpoint.tying import EMBEDDING, FLAG, HEAD
from dca_export.errors import InputError
from dca_export.model.architectures import find_architecture
from dca_export.model.hyperparameters import read_dimensions


def merged(checkpoint: Checkpoint, adapters: Sequence[AdapterOption]) -> Checkpoint:
    """The checkpoint with all adapters merged, in order. Raises InputError for one that does not fit it."""
    for option in adapters:
        checkpoint = _with(checkpoint, _read(checkpoint, option), option)
    return checkpoint


def _read(checkpoint: Checkpoint, option: AdapterOption) -> Changes:
    if option.path.is_dir():
        return read_peft(option, checkpoint.tensors)
    if not option.path.exists():
        raise InputError(f"{option.path}: no such adapter; expected PEFT's directory or a GGUF file")
    architecture = find_architecture(checkpoint.config)
    return read_gguf_lora(option, architecture, read_dimensions(checkpoint.config, architecture))


def _with(checkpoint: Checkpoint, changes: Changes, option: AdapterOption) -> Checkpoint:
    tensors = dict(checkpoint.tensors)
    changed = {*changes.additions, *changes.replacements}
    if not changed:
        raise InputError(f"{changes.path}: the adapter holds no tensors")
    tied = checkpoint.config.boolean(FLAG, False) and not changes.tied
    if tied and changed & {EMBEDDING, HEAD} and HEAD not in tensors and EMBEDDING in tensors:
        # Trained apart: only the one that the adapter names has its change.
        tensors[HEAD] = replace(tensors[EMBEDDING], name=HEAD)
    for name, tensor in changes.replacements.items():
        tensors[name] = _replaced(tensors, name, tensor, changes)
    for name, additions in changes.additions.items():
        tensors[name] = _added(tensors, name, additions, changes)
    note = f"adapter {option.path.name}: {_count(len(changes.additions), 'tensor')} changed"
    if changes.replacements:
        note += f", {_count(len(changes.replacements), 'tensor')} replaced"
    notes = (*checkpoint.notes, note + f", at scale {option.scale:g}", *changes.notes)
    return replace(checkpoint, tensors=tensors, notes=notes)


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _replaced(
    tensors: dict[str, SourceTensor], name: str, tensor: SourceTensor, changes: Changes
) -> SourceTensor:
    base = tensors.get(name)
    if base is None and (module := name.removesuffix(".bias") + ".weight") not in tensors:
        raise _another_model(changes, f"{tensor.file}: tensor {tensor.name}", name, module)
    if base is not None and base.shape != tensor.shape:
        raise tensor.error(f"has shape {list(tensor.shape)}, the model's {name} {list(base.shape)}")
    return replace(tensor, name=name, parts=() if base is None else _parts(base))


def _added(
    tensors: dict[str, SourceTensor], name: str, additions: list[Addition], changes: Changes
) -> SourceTensor:
    base, first = tensors.get(name), additions[0]
    if base is None:
        module = name.removesuffix("bias") + "weight"
        if not name.endswith(".bias") or module not in tensors:
            raise _another_model(changes, first.stored, name, module)
        shape = (first.shape[1],)
        nothing = _Nothing(first.shape[1])
        base = SourceTensor(name, "F32", shape, tensors[module].file, nothing, (module,), origin="F32")
    for addition in additions:
        if (base.rows, base.columns) != addition.shape:
            raise InputError(
                f"{addition.stored} makes a change of {list(addition.shape)}, the model's {name} has shape "
                f"{list(base.shape)}{_trained_on(changes)}"
            )
    read = _Merged(base, tuple(additions))
    origin = base.origin or base.dtype
    return SourceTensor(name, "F32", base.shape, base.file, read, _parts(base), origin=origin)


def _parts(base: SourceTensor) -> tuple[str, ...]:
    return base.parts or (base.name,)


def _another_model(changes: Changes, stored: str, name: str, module: str) -> InputError:
    return InputError(f"{stored} is for {name}, which the model has not{_trained_on(changes)}")


def _trained_on(changes: Changes) -> str:
    return f" (the adapter was trained on {changes.base})" if changes.base else ""


@dataclass(frozen=True)
class _Nothing:
    """A bias that the model lacks."""

    columns: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return np.zeros((stop - start, self.columns), np.float32)


@dataclass(frozen=True)
class _Merged:
    """Rows of a tensor with all that is added to it, f32."""

    base: SourceTensor
    additions: tuple[Addition, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        result = values(self.base, start, stop).copy()
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is not finite is refused where it is written
            for addition in self.additions:
                result += addition.rows(start, stop)
        return result
