"""Hyperparameters: sizes that fit together, and the keys that state them."""

import pytest
from gguf import GGUFValueType
from tiny_hf import tiny_config

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.architectures import find_architecture
from dca_export.model.hyperparameters import model_entries, read_dimensions

MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "head_dim": 32,
    "norm_topk_prob": True,
}


def config(**changes) -> Config:
    return Config(tiny_config(**changes), "config.json")


def dimensions(**changes):
    checked = config(**changes)
    return read_dimensions(checked, find_architecture(checked))


def entries(**changes) -> dict:
    checked = config(**changes)
    architecture = find_architecture(checked)
    sizes = read_dimensions(checked, architecture)
    return {
        key: value
        for key, (_, value) in model_entries(checked, architecture, sizes, context_length=64).items()
    }


def test_llama():
    assert entries() == {
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.vocab_size": 320,
    }


def test_value_types():
    checked = config()
    architecture = find_architecture(checked)
    stated = model_entries(checked, architecture, read_dimensions(checked, architecture), 64)
    assert stated.pop("llama.attention.layer_norm_rms_epsilon")[0] == GGUFValueType.FLOAT32
    assert {kind for kind, _ in stated.values()} == {GGUFValueType.UINT32}


def test_head_dim_apart_from_the_width():
    assert dimensions(head_dim=32).head_dim == 32
    assert dimensions(head_dim=None).head_dim == 16


def test_as_many_key_heads_as_heads_unless_stated():
    assert dimensions(num_key_value_heads=None).kv_heads == 4


def test_mixture():
    found = entries(**MIXTURE)
    assert found["qwen3moe.expert_count"] == 8
    assert found["qwen3moe.expert_used_count"] == 2
    assert found["qwen3moe.expert_feed_forward_length"] == 32
    assert "qwen3moe.expert_weights_norm" not in found


@pytest.mark.parametrize("stated", [False, None])
def test_unnormalised_expert_weights_are_stated_where_engines_assume_otherwise(stated):
    assert entries(**MIXTURE | {"norm_topk_prob": stated})["qwen3moe.expert_weights_norm"] is False


def test_qwen2_mixture():
    shared = {"architectures": ["Qwen2MoeForCausalLM"], "shared_expert_intermediate_size": 48}
    found = entries(**MIXTURE | shared)
    assert found["qwen2moe.expert_shared_feed_forward_length"] == 48
    assert found["qwen2moe.expert_weights_norm"] is True


def test_mixtral_always_normalises():
    found = entries(architectures=["MixtralForCausalLM"], num_local_experts=4, num_experts_per_tok=2)
    assert found["llama.expert_count"] == 4
    assert "llama.expert_weights_norm" not in found


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"],
)
def test_a_needed_key_that_is_missing_is_named(key):
    with pytest.raises(InputError, match=f"^config.json: {key} is missing$"):
        dimensions(**{key: None})


def test_missing_epsilon_is_named():
    with pytest.raises(InputError, match="rms_norm_eps is missing"):
        entries(rms_norm_eps=None)


def test_missing_expert_count_names_both_spellings():
    with pytest.raises(InputError, match="num_local_experts or num_experts is missing"):
        dimensions(**MIXTURE | {"num_experts": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, must divide num_attention_heads 4"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "must divide hidden_size 64"),
        ({"head_dim": 15}, "head_dim is 15, must be even"),
        ({"num_hidden_layers": 10**6}, "must be at most 4096"),
        ({"hidden_act": "gelu"}, "hidden_act is \"gelu\", .* supported with 'silu' only"),
        (MIXTURE | {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        (MIXTURE | {"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dimensions(**changes)


def test_more_experts_used_than_there_are():
    with pytest.raises(InputError, match="num_experts_per_tok is 9, must be at most 8"):
        entries(**MIXTURE | {"num_experts_per_tok": 9})
