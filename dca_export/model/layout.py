"""Which rows of which checkpoint tensors make up each tensor of the GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dca_export.checkpoint.tensors import STORAGE, Checkpoint, SourceTensor
from dca_export.errors import InputError
from dca_export.model.rules import Architecture, Dimensions, TensorRule

# Buffers that old checkpoints carry along; they follow from the configuration.
_BUFFERS = re.compile(r".*\.(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|attention\.masked_bias)")
TIED = "lm_head.weight"


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a checkpoint tensor, seen as a matrix."""

    tensor: SourceTensor
    start: int
    stop: int


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its pieces one below the other.

    `head_dim` > 0: within each head of that many rows, the two halves are interleaved (row i of the first
    half, row i of the second, …), which turns Hugging Face's rotation layout into llama.cpp's.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    head_dim: int = 0
    f32: bool = False

    @property
    def n_values(self) -> int:
        return int(np.prod(self.shape))


def plan_tensors(
    checkpoint: Checkpoint, architecture: Architecture, dimensions: Dimensions
) -> list[PlannedTensor]:
    """Every tensor of the GGUF file, in the order of the model.

    Raises InputError for a tensor that is missing, has another shape than config.json implies, or has no
    place in this architecture.
    """
    planned: list[PlannedTensor] = []
    unused = set(checkpoint.tensors)
    tied = checkpoint.config.boolean("tie_word_embeddings", False)
    for rule, layer in _rules(architecture, dimensions.layers):
        if rule.source == TIED and tied:
            unused.discard(TIED)
            continue
        shape = tuple(dimensions.size(word) for word in rule.shape)
        pieces = _pieces(checkpoint, rule, layer, shape, dimensions)
        if pieces is None:
            continue
        unused -= {name for piece in pieces for name in (piece.tensor.name, *piece.tensor.parts)}
        head_dim = dimensions.head_dim if rule.rotated and architecture.interleaved else 0
        planned.append(PlannedTensor(rule.target.format(layer=layer), shape, pieces, head_dim, rule.f32))
    _check_whole(checkpoint, planned, dimensions.layers)
    left_over = sorted(
        name for name in unused if not (_BUFFERS.fullmatch(name) or _adds_nothing(checkpoint.tensors[name]))
    )
    if left_over:
        raise checkpoint.tensors[left_over[0]].error(
            f"has no place in {architecture.classes[0]} as config.json describes it"
            + (f" (nor have {len(left_over) - 1} others)" if len(left_over) > 1 else "")
        )
    return planned


def _check_whole(checkpoint: Checkpoint, planned: list[PlannedTensor], layers: int) -> None:
    """Raises InputError for a norm that only some layers have, or only one of queries and keys."""
    there = {each.name for each in planned}
    for layer in range(layers):
        for name in ("attn_q_norm", "attn_k_norm", "ffn_norm"):
            target = f"blk.{layer}.{name}.weight"
            with_it = [f"blk.{other}.{name}.weight" for other in range(layers)]
            if name != "ffn_norm":
                with_it += [f"blk.{layer}.attn_{part}_norm.weight" for part in "qk"]
            if target not in there and (others := there.intersection(with_it)):
                raise InputError(
                    f"{checkpoint.directory}: what becomes {target} is missing beside {min(others)}"
                )


def _adds_nothing(tensor: SourceTensor) -> bool:
    """Whether it is a bias of zeros, which quantisers give modules that have none."""
    is_bias = tensor.name.endswith(".bias") and tensor.rows == 1 and tensor.dtype in STORAGE
    return is_bias and not tensor.read(0, 1).any()


def generated_tensor(name: str, values: np.ndarray, checkpoint: Checkpoint) -> PlannedTensor:
    """A vector that follows from the configuration, as if the checkpoint held it."""

    def read(start: int, stop: int) -> np.ndarray:
        return values.reshape(1, -1)

    source = SourceTensor(name, "F32", values.shape, checkpoint.directory / "config.json", read)
    return PlannedTensor(name, values.shape, (Piece(source, 0, 1),))


def _rules(architecture: Architecture, layers: int) -> Iterator[tuple[TensorRule, int]]:
    """Each rule with each layer it applies to, the layers' rules together and in order."""
    repeated = [rule for rule in architecture.tensors if "{layer}" in rule.target]
    before = True
    for rule in architecture.tensors:
        if "{layer}" not in rule.target:
            yield rule, 0
        elif before:
            before = False
            yield from ((inner, layer) for layer in range(layers) for inner in repeated)


def _pieces(
    checkpoint: Checkpoint, rule: TensorRule, layer: int, shape: tuple[int, ...], dimensions: Dimensions
) -> tuple[Piece, ...] | None:
    """The pieces for one tensor, None if it is optional and absent."""
    if rule.stacked is not None and (name := rule.stacked.format(layer=layer)) in checkpoint.tensors:
        return _stacked_pieces(checkpoint.tensors[name], rule.half, shape)
    if rule.instead is not None and (name := rule.instead[0].format(layer=layer)) in checkpoint.tensors:
        return (_whole(rule.instead[1](checkpoint.tensors[name]), shape),)
    several = "{expert}" in rule.source or "{head}" in rule.source
    names = [rule.source.format(layer=layer, expert=i, head=i) for i in range(shape[0] if several else 1)]
    if rule.optional and names[0] not in checkpoint.tensors:
        return None
    if rule.rows is not None:
        return _chosen_rows(_required(checkpoint, names[0]), rule.rows(dimensions), shape)
    each = shape[1:] if several else shape
    return tuple(_whole(_derived(_required(checkpoint, name), rule), each) for name in names)


def _chosen_rows(
    tensor: SourceTensor, ranges: list[tuple[int, int]], shape: tuple[int, ...]
) -> tuple[Piece, ...]:
    if len(tensor.shape) != 2 or tensor.columns != shape[-1] or max(stop for _, stop in ranges) > tensor.rows:
        raise tensor.error(f"has shape {list(tensor.shape)}, config.json implies another")
    return tuple(Piece(tensor, start, stop) for start, stop in ranges)


def _derived(tensor: SourceTensor, rule: TensorRule) -> SourceTensor:
    return tensor if rule.derive is None else rule.derive(tensor)


def _required(checkpoint: Checkpoint, name: str) -> SourceTensor:
    tensors: Mapping[str, SourceTensor] = checkpoint.tensors
    if name not in tensors:
        raise InputError(f"{checkpoint.directory}: tensor {name}, which config.json implies, is missing")
    return tensors[name]


def _whole(tensor: SourceTensor, shape: tuple[int, ...]) -> Piece:
    _check_shape(tensor, shape)
    return Piece(tensor, 0, tensor.rows)


def _stacked_pieces(tensor: SourceTensor, half: int | None, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    """All rows, or the wanted half of each expert's rows."""
    experts, rows, columns = shape
    if half is None:
        return (_whole(tensor, shape),)
    _check_shape(tensor, (experts, 2 * rows, columns))
    starts = (expert * 2 * rows + half * rows for expert in range(experts))
    return tuple(Piece(tensor, start, start + rows) for start in starts)


def _check_shape(tensor: SourceTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise tensor.error(f"has shape {list(tensor.shape)}, config.json implies {list(shape)}")
