"""Tied or not: what the tensors say counts."""

import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, tiny_tensors, write_safetensors, write_tiny_model

from dca_export.checkpoint.tensors import open_checkpoint
from dca_export.checkpoint.tying import settle_tying
from dca_export.errors import InputError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def settled(directory, tied: bool, dtype: str = "F32", **changes: np.ndarray | None):
    """A model whose config says `tied`, its embedding or head changed or (None) left out."""
    write_tiny_model(directory, tie_word_embeddings=tied)
    tensors = tiny_tensors(tiny_config())
    stored = {name: ("F32", values) for name, values in tensors.items()}
    for name, values in ((EMBEDDING, changes.get("embedding", ...)), (HEAD, changes.get("head", ...))):
        if values is None:
            del stored[name]
        elif values is not ...:
            stored[name] = dtype, stored_as(values, dtype)
    write_safetensors(directory / "model.safetensors", stored)
    return settle_tying(open_checkpoint(directory))


def test_two_different_matrices_are_two(tmp_path):
    checkpoint = settled(tmp_path, tied=True)
    assert checkpoint.config.values["tie_word_embeddings"] is False
    assert "lm_head.weight differs from the embedding: both are exported" in checkpoint.notes[0]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_same_matrix_twice_stays_one(tmp_path, dtype):
    tensors = tiny_tensors(tiny_config())
    exact = (stored_as(tensors[EMBEDDING], "BF16").astype(np.uint32) << 16).view(np.float32)
    write = {"embedding": exact, "head": exact}
    checkpoint = settled(tmp_path, tied=True, dtype=dtype, **write)
    assert checkpoint.config.values["tie_word_embeddings"] is True
    assert checkpoint.notes == ()


def test_one_value_makes_a_difference(tmp_path):
    values = tiny_tensors(tiny_config())[EMBEDDING].copy()
    values[-1, -1] += 1e-4
    assert settled(tmp_path, tied=True, head=values).config.values["tie_word_embeddings"] is False


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_alone_is_the_embedding(tmp_path, tied):
    checkpoint = settled(tmp_path, tied, embedding=None)
    values = tiny_tensors(tiny_config())[HEAD]
    np.testing.assert_array_equal(checkpoint.tensors[EMBEDDING].read(0, len(values)), values)
    assert HEAD not in checkpoint.tensors
    assert checkpoint.config.values["tie_word_embeddings"] is True
    assert len(checkpoint.notes) == (0 if tied else 1)


def test_an_embedding_alone_needs_the_flag(tmp_path):
    assert settled(tmp_path / "a", tied=True, head=None).notes == ()
    with pytest.raises(InputError, match="saved without its head"):
        settled(tmp_path / "b", tied=False, head=None)
