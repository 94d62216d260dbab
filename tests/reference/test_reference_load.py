"""Loading the reference: a GGUF file made of a transformers model gives that model back."""

import gguf
import numpy as np
import pytest

from dca_export.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make, make_case, tokens  # noqa: E402
from hf_to_gguf import gguf_tensors, interleaved, write_gguf  # noqa: E402

from dca_export.reference.load import load_reference  # noqa: E402


@pytest.mark.parametrize("case", GGUF_CASES)
def test_a_gguf_file_gives_its_model_back(case, tmp_path):
    original, keys, extra = make_case(case)
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
    assert loaded(tokens(23)).logits.isfinite().all()


def test_a_directory_gives_its_model_back(tmp_path):
    original = make("qwen3", torch.float32)
    original.save_pretrained(tmp_path)
    loaded = load_reference(tmp_path)
    assert torch.equal(loaded(tokens(23)).logits, original(tokens(23)).logits)
    assert not loaded.training


@pytest.mark.parametrize(
    ("keys", "extra", "message"),
    [
        ({}, {"blk.1.ffn_up.weight": None}, "tensor blk.1.ffn_up.weight is missing"),
        ({}, {"token_embd.weight": None}, "tensor token_embd.weight is missing"),
        (
            {},
            {"blk.0.attn_k.bias": None, "blk.0.odd.weight": np.float32([1])},
            "blk.0.odd.weight has no place",
        ),
        ({}, {"blk.0.attn_q.weight": np.ones((8, 64), np.float32)}, r"has shape \(8, 64\).*\(64, 64\)"),
        ({}, {"rope_freqs.weight": np.float32([1, 2])}, "rope_freqs.weight must be 8 positive factors"),
        (
            {},
            {"rope_freqs.weight": np.float32([1, 2, 3, 4, 0, 1, 2, 3])},
            "rope_freqs.weight must be 8 positive factors",
        ),
        ({"rope.scaling.type": "spiral"}, {}, "rope.scaling.type is spiral, must be none, linear, yarn or"),
        ({"rope.dimension_count": 8}, {}, "rope.dimension_count is 8"),
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
