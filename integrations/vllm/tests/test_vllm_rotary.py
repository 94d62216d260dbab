"""Every rotary class of vLLM that is taken over: keys at P_k, queries as they are. None, where no scheme is.

Runs where vLLM is installed; no engine is started.
"""

import copy
import json

import pytest
import torch

vllm = pytest.importorskip("vllm", reason="needs vLLM")

from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.model_executor.layers import rotary_embedding  # noqa: E402
from vllm.model_executor.layers.rotary_embedding import get_rope  # noqa: E402

from dca_vllm import current, rotary  # noqa: E402
from dca_vllm.register import register  # noqa: E402
from dca_vllm.scheme import Scheme  # noqa: E402

SCHEME = Scheme(12, 3, 16)
TRAINED = 64
KINDS = {
    "RotaryEmbedding": {"rope_type": "default"},
    "LinearScalingRotaryEmbedding": {"rope_type": "linear", "factor": 2.0},
    "NTKScalingRotaryEmbedding": {"rope_type": "ntk", "factor": 2.0},
    "DynamicNTKScalingRotaryEmbedding": {"rope_type": "dynamic", "factor": 2.0},
    "DynamicNTKAlphaRotaryEmbedding": {"rope_type": "dynamic", "alpha": 2.0},
    "Llama3RotaryEmbedding": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
    "YaRNScalingRotaryEmbedding": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
}


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """A process in which no rotary embedding has been made, with vLLM's plug-in loaded twice."""
    register()
    register()
    monkeypatch.setattr(rotary, "_made", [])
    monkeypatch.setattr(rotary_embedding, "_ROPE_DICT", {})
    monkeypatch.setattr(rotary, "check_engine", lambda config: None)
    with set_current_vllm_config(VllmConfig()):
        yield


@pytest.fixture
def scheme(monkeypatch):
    def use(scheme):
        monkeypatch.setattr(rotary, "current_scheme", lambda: scheme)

    return use


def rope(kind):
    return get_rope(32, TRAINED, True, {"rope_theta": 10000.0, **KINDS[kind]}, torch.float32)


def test_every_class_that_is_taken_over_is_tested():
    assert set(KINDS) == set(rotary.CLASSES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["forward", "forward_native", "forward_cpu", "forward_cuda"])
def test_keys_are_vllms_at_positions_mod_s_and_queries_stay(kind, method, scheme):
    scheme(None)
    original = rope(kind)
    assert type(original) is getattr(rotary_embedding, kind)
    rotary_embedding._ROPE_DICT.clear()
    scheme(SCHEME)
    replaced = rope(kind)
    positions = torch.tensor([0, 5, 11, 12, 13, 200, 1_000_000])
    query, key = torch.randn(7, 4 * 32), torch.randn(7, 2 * 32)
    kept, turned = copy.deepcopy((query, key))
    found = getattr(replaced, method)(positions, query, key)
    _, wanted = original.forward_native(positions % 12, kept, turned)
    assert torch.equal(found[0], kept)
    assert (found[1] - wanted).abs().max() < 1e-5


def test_without_a_scheme_the_object_is_vllms_own(scheme):
    scheme(None)
    made = rope("YaRNScalingRotaryEmbedding")
    assert type(made) is rotary_embedding.YaRNScalingRotaryEmbedding
    assert made.name == rotary_embedding.RotaryEmbedding.name


def test_qwens_dual_chunk_embedding_becomes_the_one_of_the_configs_rope(scheme, monkeypatch):
    scheme(SCHEME)

    class Model:
        hf_text_config = type("Config", (), {"rope_parameters": KINDS["YaRNScalingRotaryEmbedding"]})

    config = type("Config", (), {"model_config": Model})
    monkeypatch.setattr(rotary, "get_current_vllm_config", lambda: config)
    stated = {
        "chunk_size": 15,
        "local_size": 3,
        "exact_chunk_size": 12,
        "sparse_attention_config": {"a": [1]},
    }
    made = get_rope(32, TRAINED, True, {"rope_theta": 10000.0}, torch.float32, stated)
    assert isinstance(made.rotary, rotary_embedding.YaRNScalingRotaryEmbedding)
    query, key, positions = torch.randn(3, 64), torch.randn(3, 32), torch.tensor([1, 13, 40])
    kept = key.clone()
    assert torch.equal(made(positions, query, key)[1], made.rotary(positions, query, kept)[1])


def test_the_rotation_of_the_model_is_its_one_embedding(scheme):
    scheme(SCHEME)
    made = rope("RotaryEmbedding")
    assert rope("RotaryEmbedding") is made
    assert rotary.current_rotation().table is made.cos_sin_cache
    assert made.cos_sin_cache.shape == (16, 32)


def test_two_embeddings_are_refused(scheme):
    scheme(SCHEME)
    rope("RotaryEmbedding")
    rope("Llama3RotaryEmbedding")
    with pytest.raises(ValueError, match="has 2 rotary embeddings"):
        rotary.current_rotation()


def test_no_embedding_of_a_known_class_is_refused(scheme):
    scheme(SCHEME)
    with pytest.raises(ValueError, match="of no class it can take over"):
        rotary.current_rotation()


@pytest.mark.parametrize("earlier", [None, Scheme(12, 4, 16)])
def test_a_process_that_built_another_model_before_is_refused(earlier, scheme):
    scheme(earlier)
    rope("RotaryEmbedding")
    scheme(SCHEME)
    rope("RotaryEmbedding")  # vLLM gives the earlier one again
    with pytest.raises(ValueError, match="run each model in a process of its own"):
        rotary.current_rotation()


def test_the_scheme_is_part_of_the_compile_caches_key():
    plain, asked = VllmConfig(), VllmConfig(additional_config={"dca": {"pretraining_length": 16}})
    assert plain.compute_hash() != asked.compute_hash()


def test_a_scheme_in_config_json_is_found_and_part_of_that_key(tmp_path):
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 64}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape}
    engines = []
    for section in ({}, {"chunk_size": 15, "local_size": 3}, {"chunk_size": 15, "local_size": 4}):
        stated = {"dual_chunk_attention_config": section} if section else {}
        (tmp_path / "config.json").write_text(json.dumps(config | stated))
        model = ModelConfig(model=str(tmp_path), skip_tokenizer_init=True, dtype="float32")
        engines.append(VllmConfig(model_config=model))
    assert [current.scheme_of(each) for each in engines] == [None, Scheme(12, 3, 16), Scheme(11, 4, 16)]
    assert len({each.compute_hash() for each in engines}) == 3
