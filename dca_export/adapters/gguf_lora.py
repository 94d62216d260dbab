"""llama.cpp's GGUF adapters: `NAME.lora_a` (rank, columns) and `NAME.lora_b` (rows, rank) for tensors of the
GGUF model, with `adapter.lora.alpha`; scale = alpha / rank, or 1 without an alpha.

The embedding's are stored as (vocabulary, rank) and (width, rank). Experts are stacked. Where llama.cpp
rotates neighbouring pairs, the rows of q and k are in its order, not in transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dca_export.adapters.changes import AdapterOption, Addition, Changes
from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile, TensorInfo
from dca_export.model.rules import Architecture, Dimensions, TensorRule
from dca_runtime import blocks
from dca_runtime.errors import DcaError

_EMBEDDING = "token_embd.weight"


def read_gguf_lora(option: AdapterOption, architecture: Architecture, dimensions: Dimensions) -> Changes:
    """The adapter in a GGUF file, for a model of `architecture`. Raises InputError."""
    file = GgufFile(option.path)
    _check_kind(file, architecture)
    alpha = file.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not np.isfinite(alpha):
        raise InputError(f"{file.path}: adapter.lora.alpha is {alpha!r}, must be a finite number")
    changes = Changes(option.path)
    rules = _rules(architecture, dimensions.layers)
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for info in file.tensors:
        name, _, which = info.name.rpartition(".")
        if which not in ("lora_a", "lora_b"):
            raise _error(file, info, "is neither lora_a nor lora_b, and cannot be merged here")
        pairs.setdefault(name, {})[which] = info
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise InputError(f"{file.path}: {name} has only {next(iter(pair))}, expected lora_a and lora_b")
        if name not in rules:
            raise InputError(f"{file.path}: {name} is no tensor of this model: another base model's adapter?")
        rule, layer = rules[name]
        if rule.derive is not None:
            raise InputError(
                f"{file.path}: {name} is no plain tensor of this model, and cannot be merged here"
            )
        head_dim = dimensions.head_dim if rule.rotated and architecture.interleaved else 0
        for target, addition in _additions(file, name, pair, rule, layer, alpha, head_dim, option.scale):
            changes.add(target, addition)
    return changes


def _check_kind(file: GgufFile, architecture: Architecture) -> None:
    if file.get("general.type") != "adapter" or file.get("adapter.type") != "lora":
        raise InputError(f"{file.path}: is no LoRA adapter (general.type adapter, adapter.type lora)")
    if file.architecture != architecture.name:
        raise InputError(
            f"{file.path}: is an adapter of {file.architecture}, the model is {architecture.name}"
        )
    if file.get("adapter.alora.invocation_tokens"):
        raise InputError(f"{file.path}: is activated LoRA, which is not for every token: it cannot be merged")


def _rules(architecture: Architecture, layers: int) -> dict[str, tuple[TensorRule, int]]:
    return {
        rule.target.format(layer=layer): (rule, layer)
        for rule in architecture.tensors
        for layer in range(layers if "{layer}" in rule.target else 1)
    }


def _additions(
    file: GgufFile,
    name: str,
    pair: dict[str, TensorInfo],
    rule: TensorRule,
    layer: int,
    alpha: float,
    head_dim: int,
    scale: float,
) -> Iterator[tuple[str, Addition]]:
    a, b = pair["lora_a"], pair["lora_b"]
    stacked = "{expert}" in rule.source
    if len(a.shape) != 2 + stacked or len(b.shape) != 2 + stacked or a.shape[:-2] != b.shape[:-2]:
        raise _error(file, a, f"has shape {list(a.shape)}, lora_b {list(b.shape)}: expected two matrices")
    rank = b.shape[-1]
    factor = scale * (alpha / rank if alpha else 1.0)
    if rank != (a.shape[-1] if name == _EMBEDDING else a.shape[-2]):
        raise _error(file, a, f"has shape {list(a.shape)}, lora_b {list(b.shape)}: their ranks differ")
    read_a, read_b = _reader(file, a), _reader(file, b)
    place = f"{file.path}: tensor {a.name}"
    if name == _EMBEDDING:
        shape = (a.shape[0], b.shape[0])
        yield rule.source, Addition(shape, rank, factor, read_a, lambda: read_b().T, place)
    elif stacked:
        for expert in range(a.shape[0]):
            source = rule.source.format(layer=layer, expert=expert)
            left, right = _one(read_b, expert), _one(read_a, expert)
            yield source, Addition((b.shape[1], a.shape[2]), rank, factor, left, right, place)
    else:
        if head_dim and b.shape[0] % head_dim:
            raise _error(file, b, f"has {b.shape[0]} rows, which are no heads of {head_dim}")
        left = (lambda: _halves(read_b(), head_dim)) if head_dim else read_b
        source = rule.source.format(layer=layer)
        yield source, Addition((b.shape[0], a.shape[1]), rank, factor, left, read_a, place)


def _reader(file: GgufFile, info: TensorInfo) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        data = np.fromfile(file.path, np.uint8, info.nbytes, offset=info.start)
        try:
            values = blocks.decode(info.type, data.reshape(int(np.prod(info.shape[:-1])), -1))
        except DcaError as error:
            raise _error(file, info, str(error)) from None
        return values.reshape(info.shape)

    return read


def _one(read: Callable[[], np.ndarray], expert: int) -> Callable[[], np.ndarray]:
    return lambda: read()[expert]


def _halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows 2p and 2p + 1 of each head, a rotated pair, become rows p and p + head_dim / 2."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _error(file: GgufFile, info: TensorInfo, message: str) -> InputError:
    return InputError(f"{file.path}: tensor {info.name} {message}")
