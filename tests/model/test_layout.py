"""Which rows go where: names, shapes, stacked experts, tied embeddings, and what does not fit."""

import json

import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, tiny_tensors, write_safetensors

from dca_export.checkpoint.tensors import open_checkpoint
from dca_export.errors import InputError
from dca_export.export.convert import read_chunks
from dca_export.model.architectures import find_architecture
from dca_export.model.hyperparameters import read_dimensions
from dca_export.model.layout import plan_tensors

MIXTRAL = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}


def planned(directory, tensors: dict[str, np.ndarray], **changes):
    config = tiny_config(**changes)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    stored = {name: ("F32", stored_as(values, "F32")) for name, values in tensors.items()}
    write_safetensors(directory / "model.safetensors", stored)
    checkpoint = open_checkpoint(directory)
    architecture = find_architecture(checkpoint.config)
    return plan_tensors(checkpoint, architecture, read_dimensions(checkpoint.config, architecture))


def values(tensor) -> np.ndarray:
    return np.concatenate([rows for _, rows in read_chunks(tensor)]).reshape(tensor.shape)


def experts_instead_of_mlp(
    tensors: dict[str, np.ndarray], module: str, gate: str, up: str, down: str, ff: int
):
    random = np.random.default_rng(3)
    result = {name: v for name, v in tensors.items() if ".mlp." not in name}
    for layer in range(2):
        prefix = f"model.layers.{layer}.{module}."
        result[prefix + "gate.weight"] = random.standard_normal((3, 64))
        for expert in range(3):
            for name, shape in ((gate, (ff, 64)), (up, (ff, 64)), (down, (64, ff))):
                result[f"{prefix}experts.{expert}.{name}.weight"] = random.standard_normal(shape)
    return {name: v.astype(np.float32) for name, v in result.items()}


def test_llama(tmp_path):
    tensors = tiny_tensors(tiny_config())
    found = {tensor.name: tensor for tensor in planned(tmp_path, tensors)}
    assert list(found)[:2] == ["token_embd.weight", "blk.0.attn_norm.weight"]
    assert list(found)[-2:] == ["output_norm.weight", "output.weight"]
    assert len(found) == len(tensors) == 21
    assert found["blk.1.ffn_down.weight"].shape == (64, 96)
    source = tensors["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(values(found["blk.1.ffn_down.weight"]), source)


@pytest.mark.parametrize("head_dim", [None, 32])
def test_llama_interleaves_the_halves_of_each_head(tmp_path, head_dim):
    """llama.cpp rotates rows (2i, 2i + 1) of a head, Hugging Face rows (i, i + d / 2)."""
    d = head_dim or 16
    tensors = tiny_tensors(tiny_config(head_dim=head_dim))
    found = {tensor.name: tensor for tensor in planned(tmp_path, tensors, head_dim=head_dim)}
    for target, source, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        got = values(found[f"blk.0.{target}.weight"])
        wanted = tensors[f"model.layers.0.self_attn.{source}.weight"]
        for head in range(heads):
            for i in range(d // 2):
                np.testing.assert_array_equal(got[head * d + 2 * i], wanted[head * d + i])
                np.testing.assert_array_equal(got[head * d + 2 * i + 1], wanted[head * d + i + d // 2])
    v = tensors["model.layers.0.self_attn.v_proj.weight"]
    np.testing.assert_array_equal(values(found["blk.0.attn_v.weight"]), v)


def test_biases_of_q_and_k_are_interleaved_too(tmp_path):
    tensors = tiny_tensors(tiny_config())
    bias = np.arange(64, dtype=np.float32)
    for layer in range(2):
        prefix = f"model.layers.{layer}.self_attn."
        tensors |= {prefix + "q_proj.bias": bias, prefix + "v_proj.bias": bias[:32]}
    found = {tensor.name: tensor for tensor in planned(tmp_path, tensors)}
    assert values(found["blk.0.attn_q.bias"])[:6].tolist() == [0, 8, 1, 9, 2, 10]
    assert values(found["blk.0.attn_v.bias"])[:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_qwen2_keeps_the_rows_and_needs_its_biases(tmp_path):
    qwen2 = {"architectures": ["Qwen2ForCausalLM"]}
    tensors = tiny_tensors(tiny_config())
    with pytest.raises(InputError, match="tensor model.layers.0.self_attn.q_proj.bias, .* is missing"):
        planned(tmp_path / "a", tensors, **qwen2)
    for layer in range(2):
        for name, rows in (("q", 64), ("k", 32), ("v", 32)):
            tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = np.zeros(rows, np.float32)
    found = {tensor.name: tensor for tensor in planned(tmp_path / "b", tensors, **qwen2)}
    wanted = tensors["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(values(found["blk.0.attn_q.weight"]), wanted)


def test_mixtral_stacks_its_experts(tmp_path):
    tensors = experts_instead_of_mlp(tiny_tensors(tiny_config()), "block_sparse_moe", "w1", "w3", "w2", 96)
    found = {tensor.name: tensor for tensor in planned(tmp_path, tensors, **MIXTRAL)}
    prefix = "model.layers.1.block_sparse_moe.experts."
    for target, source in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        wanted = np.stack([tensors[f"{prefix}{expert}.{source}.weight"] for expert in range(3)])
        np.testing.assert_array_equal(values(found[f"blk.1.ffn_{target}_exps.weight"]), wanted)
    assert found["blk.0.ffn_gate_inp.weight"].f32


def test_experts_that_come_stacked_are_taken_apart(tmp_path):
    split = experts_instead_of_mlp(
        tiny_tensors(tiny_config()), "mlp", "gate_proj", "up_proj", "down_proj", 32
    )
    for layer in range(2):
        heads = {f"self_attn.{name}_norm.weight": np.ones(16, np.float32) for name in "qk"}
        split |= {f"model.layers.{layer}.{name}": v for name, v in heads.items()}
    stacked = {name: v for name, v in split.items() if ".experts." not in name}
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."

        def all_of(name, prefix=prefix):
            return np.stack([split[f"{prefix}{expert}.{name}.weight"] for expert in range(3)])

        stacked[prefix + "gate_up_proj"] = np.concatenate([all_of("gate_proj"), all_of("up_proj")], axis=1)
        stacked[prefix + "down_proj"] = all_of("down_proj")
    one = planned(tmp_path / "split", split, **QWEN3_MOE)
    other = planned(tmp_path / "stacked", stacked, **QWEN3_MOE)
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(values(a), values(b))


@pytest.mark.parametrize("has_head", [True, False])
def test_tied_embeddings_are_written_once(tmp_path, has_head):
    tensors = tiny_tensors(tiny_config())
    if not has_head:
        del tensors["lm_head.weight"]
    names = [tensor.name for tensor in planned(tmp_path, tensors, tie_word_embeddings=True)]
    assert "output.weight" not in names


def test_missing_head_of_a_model_that_is_not_tied(tmp_path):
    tensors = tiny_tensors(tiny_config())
    del tensors["lm_head.weight"]
    with pytest.raises(InputError, match="tensor lm_head.weight, which config.json implies, is missing"):
        planned(tmp_path, tensors)


def test_buffers_of_old_checkpoints_are_passed_over(tmp_path):
    tensors = tiny_tensors(tiny_config())
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    assert len(planned(tmp_path, tensors)) == 21


def test_wrong_shape_names_file_and_tensor(tmp_path):
    tensors = tiny_tensors(tiny_config())
    tensors["model.norm.weight"] = np.ones(65, np.float32)
    message = r"model.safetensors: tensor model.norm.weight has shape \[65\], config.json implies \[64\]"
    with pytest.raises(InputError, match=message):
        planned(tmp_path, tensors)


def test_a_tensor_without_a_place_is_refused(tmp_path):
    tensors = tiny_tensors(tiny_config())
    tensors["model.layers.0.input_layernorm.bias"] = np.ones(96, np.float32)
    tensors["model.layers.7.input_layernorm.bias"] = np.ones(96, np.float32)
    message = r"input_layernorm.bias has no place in LlamaForCausalLM .* \(nor have 1 others\)"
    with pytest.raises(InputError, match=message):
        planned(tmp_path, tensors)
