"""RoPE settings: every kind's keys and tensors, and the trained length that follows from each."""

import math

import numpy as np
import pytest
from gguf import GGUFValueType

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.rope import context_length, read_rope, sliding_window, trained_length

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config(scaling=None, **values) -> Config:
    base = {"max_position_embeddings": 4096, "rope_theta": 10000.0, "rope_scaling": scaling}
    return Config(base | values, "config.json")


def rope_values(config: Config, head_dim: int = 128, length: int = 4096) -> dict:
    return {key: value for key, (_, value) in read_rope(config, head_dim, length).entries.items()}


def frequencies(config: Config, head_dim: int) -> np.ndarray:
    """Frequencies as an engine computes them: base^(-2j/d) over the factor tensor, if there is one."""
    rope = read_rope(config, head_dim, 4096)
    base = rope.entries["rope.freq_base"][1] ** (-np.arange(0, head_dim, 2) / head_dim)
    return base / rope.tensors.get("rope_freqs.weight", 1.0)


def test_plain():
    rope = read_rope(config(rope_theta=500000.0), 128, 4096)
    assert rope.kind == "default"
    assert rope.entries == {
        "rope.dimension_count": (GGUFValueType.UINT32, 128),
        "rope.freq_base": (GGUFValueType.FLOAT32, 500000.0),
    }
    assert rope.tensors == {}


def test_settings_of_transformers_5():
    stated = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
    values = rope_values(Config({"max_position_embeddings": 64, "rope_parameters": stated}, "c"))
    assert values["rope.freq_base"] == 5000.0
    assert values["rope.scaling.type"] == "linear"


def test_linear():
    values = rope_values(config({"type": "linear", "factor": 8.0}))
    assert values["rope.scaling.type"] == "linear"
    assert values["rope.scaling.factor"] == 8.0


def test_partial_rotation():
    assert rope_values(config(partial_rotary_factor=0.5), head_dim=96)["rope.dimension_count"] == 48


def test_yarn_with_its_own_magnitude_states_none():
    values = rope_values(config(YARN, max_position_embeddings=32768))
    assert values["rope.scaling.type"] == "yarn"
    assert values["rope.scaling.factor"] == 4.0
    assert values["rope.scaling.original_context_length"] == 32768
    assert "rope.scaling.attn_factor" not in values


def test_yarn_magnitude_is_stated_relative_to_the_engines_own():
    values = rope_values(config(YARN | {"attention_factor": 1.0, "beta_fast": 16}))
    assert values["rope.scaling.attn_factor"] == pytest.approx(1 / (0.1 * math.log(4) + 1))
    assert values["rope.scaling.yarn_beta_fast"] == 16


def test_yarn_mscale():
    values = rope_values(config(YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}))
    wanted = (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)
    assert values["rope.scaling.attn_factor"] == pytest.approx(wanted / (0.1 * math.log(4) + 1))


def test_dynamic_ntk_leaves_the_base_up_to_the_trained_length():
    assert rope_values(config({"type": "dynamic", "factor": 2.0}))["rope.freq_base"] == 10000.0


def test_dynamic_ntk_fixes_the_base_for_a_longer_length():
    values = rope_values(config({"type": "dynamic", "factor": 2.0}), head_dim=128, length=16384)
    assert values["rope.freq_base"] == pytest.approx(10000 * (2 * 4 - 1) ** (128 / 126))
    assert "rope.scaling.type" not in values


def test_longrope():
    short, long = [1.0] * 48, [float(i + 1) for i in range(48)]
    scaling = {"type": "su", "short_factor": short, "long_factor": long}
    phi = config(scaling, max_position_embeddings=131072, original_max_position_embeddings=4096)
    rope = read_rope(phi, 96, 131072)
    assert rope.kind == "longrope"
    assert rope.entries["rope.scaling.type"][1] == "longrope"
    assert rope.entries["rope.scaling.original_context_length"][1] == 4096
    assert rope.entries["rope.scaling.attn_factor"][1] == pytest.approx(1.1902380714238083)
    np.testing.assert_array_equal(rope.tensors["rope_factors_long.weight"], np.float32(long))
    np.testing.assert_array_equal(rope.tensors["rope_factors_short.weight"], np.float32(short))


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [
        ("llama3", LLAMA3),
        ("llama3", LLAMA3 | {"factor": 32.0, "low_freq_factor": 2.0}),
    ],
)
def test_llama3_frequencies_are_those_of_transformers(kind, scaling):
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = scaling | {"rope_theta": 500000.0}
    theirs = LlamaConfig(
        hidden_size=4096,
        num_attention_heads=32,
        max_position_embeddings=131072,
        rope_parameters=parameters,
    )
    wanted, magnitude = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu")
    ours = frequencies(config(scaling, rope_theta=500000.0), 128)
    np.testing.assert_allclose(ours, wanted.numpy(), rtol=1e-5)
    assert magnitude == 1.0


@pytest.mark.parametrize(
    ("base", "head_dim", "factor", "original"),
    [
        (500000.0, 128, 8.0, 8192),  # Llama 3.1
        (500000.0, 64, 32.0, 8192),  # Llama 3.2 1B
        (500000.0, 128, 32.0, 8192),  # Llama 3.2 3B
        (500000.0, 48, 16.0, 8192),
        (1000000.0, 80, 4.0, 4096),
    ],
)
def test_llama3_factors_are_to_the_bit_what_f32_steps_give(base, head_dim, factor, original):
    """llama.cpp's files hold what PyTorch computes in f32, one operation after the other."""
    torch = pytest.importorskip("torch")
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    wanted = []
    for wavelength in 2 * math.pi / frequencies:
        if wavelength < original / 4.0:
            wanted.append(torch.tensor(1.0))
        elif wavelength > original / 1.0:
            wanted.append(torch.tensor(factor))
        else:
            smooth = (original / wavelength - 1.0) / (4.0 - 1.0)
            wanted.append(1 / ((1 - smooth) / factor + smooth))
    scaling = LLAMA3 | {"factor": factor, "original_max_position_embeddings": original}
    tensors = read_rope(config(scaling, rope_theta=base), head_dim, 4096).tensors
    np.testing.assert_array_equal(tensors["rope_freqs.weight"], torch.stack(wanted).numpy())


def trained(scaling=None, **values) -> int:
    return trained_length(config(scaling, **values)).tokens


def test_trained_length_without_scaling():
    assert trained() == 4096


def test_trained_length_with_llama3_scaling():
    assert trained(LLAMA3, max_position_embeddings=131072) == 131072


def test_trained_length_with_yarn_is_the_one_before_it():
    assert trained(YARN, max_position_embeddings=131072) == 32768
    assert context_length(config(YARN, max_position_embeddings=131072)).tokens == 131072


def test_trained_length_of_qwen_1m_is_the_one_its_scheme_states():
    scheme = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
    assert trained(max_position_embeddings=1010000, dual_chunk_attention_config=scheme) == 262144
    del scheme["original_max_position_embeddings"]
    assert trained(max_position_embeddings=32768, dual_chunk_attention_config=scheme) == 32768


def test_trained_length_of_together_counts_in_scaled_positions():
    assert trained({"type": "linear", "factor": 8.0}, max_position_embeddings=32768) == 32768


def test_trained_length_of_vicuna_16k():
    vicuna = config({"type": "linear", "factor": 4.0}, max_sequence_length=16384)
    assert trained_length(vicuna).tokens == 16384
    assert trained_length(vicuna).source == "max_sequence_length"


def test_trained_length_of_linear_scaling_that_states_the_original():
    assert trained({"type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096}) == 16384


def test_a_sliding_window_is_all_that_was_seen():
    mistral = config(max_position_embeddings=32768, sliding_window=4096)
    assert trained_length(mistral).tokens == 4096
    assert context_length(mistral).tokens == 32768


WINDOW = {"sliding_window": 1024, "use_sliding_window": True, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("llama", {}, None),  # the class has no windows
        ("mistral", {}, 1024),
        ("phi3", {}, 1024),
        ("mixtral", {}, 1024),
        ("qwen2", {"max_window_layers": 4}, None),
        ("qwen2", {"max_window_layers": 3}, 1024),
        ("qwen2", {}, None),  # 28 layers without one is the default
        ("qwen2", {"max_window_layers": 0, "layer_types": ["full_attention"] * 4}, None),
        ("qwen3", {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, 1024),
        ("qwen2_moe", {"max_window_layers": 0}, None),
        ("qwen2_moe", {"max_window_layers": 2}, 1024),
        ("qwen3_moe", {"max_window_layers": 4}, 1024),
        ("qwen3_moe", {"use_sliding_window": False}, None),
    ],
)
def test_a_window_counts_where_a_layer_has_it(family, changes, window):
    """The truth is transformers': which layers its class gives the window to."""
    assert sliding_window(config(**(WINDOW | {"model_type": family} | changes))) == window


def test_yarn_that_was_trained_on_reaches_what_it_was_stretched_to():
    scaling = YARN | {"finetuned": True}
    assert trained(scaling, max_position_embeddings=131072) == 131072
    assert trained(scaling, max_position_embeddings=32768) == 131072  # 4 x 32768, as some configs leave it
    assert rope_values(config(scaling))["rope.scaling.finetuned"] is True
    assert "rope.scaling.finetuned" not in rope_values(config(YARN | {"finetuned": False}))


def test_the_first_llama_configs_call_the_length_otherwise():
    first = Config({"max_sequence_length": 2048}, "config.json")
    assert context_length(first).tokens == trained_length(first).tokens == 2048
    assert context_length(first).source == "max_sequence_length"


def test_a_window_that_is_switched_off_does_not_count():
    assert sliding_window(config(sliding_window=1024, use_sliding_window=False)) is None
    assert sliding_window(config(sliding_window=1024, model_type="qwen2")) is None
    assert sliding_window(config(sliding_window=1024, model_type="mistral")) == 1024
    assert sliding_window(config(sliding_window=None)) is None
    assert sliding_window(config(sliding_window=0)) is None


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "mrope"}, 'rope_scaling: type is "mrope", must be one of default, linear'),
        ({"type": "linear"}, "rope_scaling: factor is missing"),
        ({"type": "linear", "factor": float("nan")}, "factor is NaN, must be finite"),
        ({"type": "linear", "factor": 0}, "factor is 0, must be finite and above 0"),
        (LLAMA3 | {"low_freq_factor": 4.0}, "low_freq_factor is 4.0, must be below high_freq_factor"),
        ({"type": "longrope", "short_factor": [1.0] * 64}, "long_factor is missing"),
        ({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "must hold 64 numbers"),
        ("linear", 'rope_scaling is "linear", must be an object'),
    ],
)
def test_malformed_settings_name_the_key(scaling, message):
    with pytest.raises(InputError, match=message):
        read_rope(config(scaling), 128, 4096)


@pytest.mark.parametrize("share", [0.001, 1.5, 0.7])
def test_rotation_of_no_whole_pairs_is_refused(share):
    with pytest.raises(InputError, match="partial_rotary_factor"):
        read_rope(config(partial_rotary_factor=share), 10, 4096)
