"""Whether the output matrix is the embedding: the tensors decide, not the flag in config.json."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dca_export.checkpoint.tensors import STORAGE, Checkpoint, SourceTensor, values
from dca_export.config import Config
from dca_export.errors import InputError

EMBEDDING, HEAD, FLAG = "model.embed_tokens.weight", "lm_head.weight", "tie_word_embeddings"

COMPARED_VALUES = 4 << 20  # at a time


def settle_tying(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with an embedding, and with `tie_word_embeddings` as its tensors have it.

    Two different matrices are two, whatever the flag says, as transformers loads them. Where only the head
    was saved (safetensors keeps one name of a shared tensor), it is the embedding. Only the embedding without
    the flag is a model whose head is lost: InputError.
    """
    tensors, stated = checkpoint.tensors, checkpoint.config.boolean(FLAG, False)
    embedding, head = tensors.get(EMBEDDING), tensors.get(HEAD)
    if embedding is None and head is not None:
        rest = {name: tensor for name, tensor in tensors.items() if name != HEAD}
        moved = replace(checkpoint, tensors={EMBEDDING: replace(head, name=EMBEDDING)} | rest)
        note = f"only {HEAD} is there, no embedding: it serves as both, though {FLAG} is not true"
        return _with_flag(moved, True, None if stated else note)
    if embedding is not None and head is None and not stated:
        raise InputError(
            f"{checkpoint.directory}: tensor {HEAD}, which config.json implies, is missing ({FLAG} is not "
            "true); the model was saved without its head, save it as a causal language model"
        )
    if embedding is not None and head is not None and stated and not _same(embedding, head):
        note = f"{FLAG} is true, but {HEAD} differs from the embedding: both are exported"
        return _with_flag(checkpoint, False, note)
    return checkpoint


def _with_flag(checkpoint: Checkpoint, tied: bool, note: str | None) -> Checkpoint:
    config = Config(dict(checkpoint.config.values) | {FLAG: tied}, checkpoint.config.where)
    notes = checkpoint.notes if note is None else (*checkpoint.notes, note)
    return replace(checkpoint, config=config, notes=notes)


def _same(a: SourceTensor, b: SourceTensor) -> bool:
    """Whether two tensors hold the same numbers."""
    if a.shape != b.shape:
        return False
    if a.dtype not in STORAGE or b.dtype not in STORAGE:
        return a.dtype == b.dtype  # such a type is refused where the embedding is planned
    step = max(1, COMPARED_VALUES // a.columns)
    return all(
        np.array_equal(values(a, start, stop), values(b, start, stop), equal_nan=True)
        for start in range(0, a.rows, step)
        for stop in [min(start + step, a.rows)]
    )
