"""Biases that transformers would leave out are said; norms that only a part of the model has are refused."""

import json

import numpy as np
import pytest
from tiny_hf import tiny_config, tiny_tensors, write_safetensors, write_tokenizer

from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions, plan_export

BIASES = {f"model.layers.{layer}.self_attn.q_proj.bias": (64,) for layer in range(2)}
NORMS = {
    f"model.layers.{layer}.self_attn.{part}_norm.weight": (heads, 16)
    for layer in range(2)
    for part, heads in (("q", 4), ("k", 2))
}


def notes(directory, extra, **changes):
    config = tiny_config(**changes)
    tensors = tiny_tensors(config) | {name: np.ones(shape, np.float32) for name, shape in extra.items()}
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(
        directory / "model.safetensors", {name: ("F32", each) for name, each in tensors.items()}
    )
    write_tokenizer(directory)
    return " ".join(plan_export(directory, ExportOptions()).summary.scheme.notes)


def cohere(directory, extra, **changes):
    named = {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "layer_norm_eps": 1e-5}
    tied = {"tie_word_embeddings": True, "logit_scale": 1.0}
    config = tiny_config(**named, **tied)
    tensors = {name: each for name, each in tiny_tensors(config).items() if "post_attention" not in name}
    tensors |= {name: np.ones(shape, np.float32) for name, shape in extra.items()}
    (directory / "config.json").write_text(json.dumps(config | changes))
    write_safetensors(
        directory / "model.safetensors", {name: ("F32", each) for name, each in tensors.items()}
    )
    write_tokenizer(directory)
    return " ".join(plan_export(directory, ExportOptions()).summary.scheme.notes)


def test_biases_that_are_not_turned_on_are_said(tmp_path):
    assert "2 tensors such as blk.0.attn_q.bias are exported" in notes(tmp_path, BIASES)


def test_biases_of_a_class_without_any_are_said(tmp_path):
    assert "leaves them out as it has none" in notes(tmp_path, BIASES, architectures=["MistralForCausalLM"])


def test_nothing_is_said_of_biases_that_are_turned_on(tmp_path):
    assert "leaves them out" not in notes(tmp_path, BIASES, attention_bias=True)


def test_norms_that_are_not_turned_on_are_said(tmp_path):
    assert "use_qk_norm is not true" in cohere(tmp_path, NORMS)


def test_norms_that_are_turned_on_and_whole(tmp_path):
    assert "leaves them out" not in cohere(tmp_path, NORMS, use_qk_norm=True)


@pytest.mark.parametrize("gone", NORMS)
def test_a_norm_that_is_missing_beside_others_is_refused(tmp_path, gone):
    rest = {name: shape for name, shape in NORMS.items() if name != gone}
    with pytest.raises(InputError, match="is missing beside blk"):
        cohere(tmp_path, rest, use_qk_norm=True)
