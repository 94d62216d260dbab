"""Loading the reference: a GGUF file made of a transformers model gives that model back."""

import gguf
import numpy as np
import pytest

from dca_export.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_to_gguf import gguf_tensors, interleaved, write_gguf  # noqa: E402
from test_hf_patch import LLAMA3, LONGROPE, SMALL, make, tokens  # noqa: E402

from dca_export.reference.load import load_reference  # noqa: E402

YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
}
LONGROPE_KEYS = {"rope.scaling.original_context_length": 16, "rope.scaling.factor": 4.0}


def factors(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def llama3_factors() -> np.ndarray:
    """What Llama 3's scaling divides each frequency by, from its definition (wavelengths in tokens)."""
    result = []
    for p in range(4):
        wavelength = 2 * np.pi * 10000 ** (p / 4)
        low, high = 32 / LLAMA3["low_freq_factor"], 32 / LLAMA3["high_freq_factor"]
        if wavelength < high:
            result.append(1.0)
        elif wavelength > low:
            result.append(8.0)
        else:
            smooth = (32 / wavelength - 1) / (4 - 1)
            result.append(1 / ((1 - smooth) / 8 + smooth))
    return factors(*result)


# case -> family of test_hf_patch, changes to its config, keys and tensors that GGUF has for them
CASES = {
    "llama": ("llama", {}, {}, {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, {}, {}),
    "llama, biases": ("llama", {"attention_bias": True}, {}, {}),
    "llama, head_dim": ("llama", {"head_dim": 12}, {}, {}),
    "llama, linear": ("llama, linear", {}, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}),
    "llama, yarn": ("llama, yarn", {}, YARN_KEYS, {}),
    "llama, llama3": ("llama, llama3", {}, {}, {"rope_freqs.weight": llama3_factors()}),
    "qwen2": ("qwen2", {}, {}, {}),
    "qwen3": ("qwen3, head_dim apart from width", {}, {}, {}),
    "phi3": ("phi3", {}, {}, {}),
    "phi3, partial": ("phi3, partial rotary", {}, {"rope.dimension_count": 4}, {}),
    "phi3, longrope": (
        "phi3, longrope",
        {},
        {**LONGROPE_KEYS, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(4) / np.log(16)))},
        {
            "rope_factors_short.weight": factors(*LONGROPE["short_factor"]),
            "rope_factors_long.weight": factors(*LONGROPE["long_factor"]),
        },
    ),
    "mixtral": ("mixtral", {}, {}, {}),
    "qwen2_moe": ("qwen2_moe", {}, {}, {}),
    "qwen2_moe, weights normed": ("qwen2_moe", {"norm_topk_prob": True}, {"expert_weights_norm": True}, {}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_gives_its_model_back(case, tmp_path):
    family, changes, keys, extra = CASES[case]
    original = make(family, torch.float32, **changes)
    loaded = load_reference(write_gguf(tmp_path / "model.gguf", original, keys, extra))
    assert type(loaded) is type(original)
    for name, values in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    ids = tokens(40)
    expected = original(ids).logits
    # Factors are stored in float32, so frequencies may differ in their last bit.
    assert (loaded(ids).logits - expected).abs().max() < 2e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_weights_are_what_the_package_gguf_dequantises(kind, tmp_path):
    dtype = gguf.GGMLQuantizationType[kind]
    original = make("llama", torch.float32, intermediate_size=64)
    loaded = load_reference(write_gguf(tmp_path / "model.gguf", original, dtype=dtype))
    stored = gguf_tensors(original)["blk.1.attn_q.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(stored, dtype), dtype)
    found = loaded.model.layers[1].self_attn.q_proj.weight.numpy()
    assert np.array_equal(interleaved(found, loaded.config.head_dim), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_dtype_is_the_callers(dtype, tmp_path):
    loaded = load_reference(write_gguf(tmp_path / "model.gguf", make("qwen3_moe", torch.float32)), dtype)
    assert {each.dtype for each in loaded.parameters()} == {dtype}
    assert loaded(tokens()).logits.isfinite().all()


def test_a_directory_gives_its_model_back(tmp_path):
    original = make("qwen3", torch.float32)
    original.save_pretrained(tmp_path)
    loaded = load_reference(tmp_path)
    assert torch.equal(loaded(tokens()).logits, original(tokens()).logits)
    assert not loaded.training


@pytest.mark.parametrize(
    ("keys", "extra", "message"),
    [
        ({}, {"blk.1.ffn_up.weight": None}, "tensor blk.1.ffn_up.weight is missing"),
        ({}, {"token_embd.weight": None}, "tensor token_embd.weight is missing"),
        ({}, {"blk.0.attn_k.bias": None, "blk.0.odd.weight": factors(1)}, "blk.0.odd.weight has no place"),
        ({}, {"blk.0.attn_q.weight": np.ones((8, 32), np.float32)}, r"has shape \(8, 32\).*\(32, 32\)"),
        ({}, {"rope_freqs.weight": factors(1, 2)}, "rope_freqs.weight must be 4 positive factors"),
        ({}, {"rope_freqs.weight": factors(1, 2, 0, 1)}, "rope_freqs.weight must be 4 positive factors"),
        ({"rope.scaling.type": "spiral"}, {}, "rope.scaling.type is spiral, must be none, linear, yarn or"),
        ({"rope.dimension_count": 4}, {}, "rope.dimension_count is 4"),
        ({"block_count": "two"}, {}, "llama.block_count is 'two'"),
        ({"expert_count": 4, "expert_used_count": 5}, {}, "5 of 4 experts cannot be used"),
    ],
)
def test_a_gguf_file_that_contradicts_itself_is_refused(keys, extra, message, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", make("llama", torch.float32), keys, extra)
    with pytest.raises(InputError, match=message):
        load_reference(path)


def test_an_architecture_it_does_not_know_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="general.architecture is mamba, the reference knows llama, qwen2"):
        load_reference(tmp_path / "model.gguf")


def test_a_path_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(InputError, match="no such file or directory"):
        load_reference(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no config.json"):
        load_reference(tmp_path)
    with pytest.raises(InputError, match="expected a Hugging Face directory or a GGUF file"):
        load_reference(tmp_path / "notes.txt")


def test_a_directory_without_its_weights_is_refused(tmp_path):
    model = make("llama", torch.float32)
    state = model.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match="missing keys, first model.layers.1.mlp.up_proj.weight"):
        load_reference(tmp_path)
    model.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_reference(tmp_path / "empty")


def test_the_small_model_is_what_these_tests_assume():
    assert SMALL["hidden_size"] // SMALL["num_attention_heads"] == 8  # four rotary pairs
