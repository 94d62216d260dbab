"""Every architecture and kind of RoPE: a random model of transformers, saved, exported, and run."""

import numpy as np
import pytest
from tiny_hf import tiny_tokenizer, write_tokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import EXPORTED, make, set_biases, tokens  # noqa: E402

import dca_runtime  # noqa: E402
from dca_export.export.plan import ExportOptions  # noqa: E402
from dca_export.export.scheme_choice import SchemeOptions  # noqa: E402
from dca_export.export.verify import verify  # noqa: E402
from dca_export.export.write import export_model  # noqa: E402
from dca_export.gguf.file import GgufFile  # noqa: E402
from dca_export.reference.hf import patch  # noqa: E402
from dca_export.scheme import Scheme  # noqa: E402

SCHEME = Scheme(chunk_size=12, local_window=4, pretraining_length=16)
LENGTH = 60  # five chunks


@pytest.fixture(scope="module", params=EXPORTED)
def saved(request, tmp_path_factory):
    """The model and the directory it was saved in."""
    model = make(request.param, torch.float32, **EXPORTED[request.param])
    set_biases(model)
    directory = tmp_path_factory.mktemp("family") / "model"
    model.save_pretrained(directory)
    write_tokenizer(directory, tiny_tokenizer())
    return model, directory


def logits_of(path) -> np.ndarray:
    with dca_runtime.Model(path, device="cpu", context=64) as model:
        session = model.session(cache_type="f32")
        ids = tokens(LENGTH)[0].tolist()
        pieces = [ids[:30], *([each] for each in ids[30:40]), ids[40:]]  # single ones across a chunk's border
        return np.concatenate([session.eval(piece, all_logits=True) for piece in pieces])


def test_plain_attention_is_transformers_own(saved, tmp_path):
    model, directory = saved
    options = ExportOptions("f32", SchemeOptions(dca=False))
    export_model(directory, tmp_path / "out.gguf", options)
    wanted = model(tokens(LENGTH)).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), wanted, atol=2e-3)


def test_dual_chunk_attention_is_the_references(saved, tmp_path):
    model, directory = saved
    scheme = SchemeOptions(True, SCHEME.pretraining_length, SCHEME.chunk_size, SCHEME.local_window)
    export_model(directory, tmp_path / "out.gguf", ExportOptions("f32", scheme))
    with patch(model, SCHEME):
        wanted = model(tokens(LENGTH)).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), wanted, atol=2e-3)


def test_verifies(saved, tmp_path):
    _, directory = saved
    export_model(directory, tmp_path / "out.gguf", ExportOptions("q8_0"))
    assert verify(tmp_path / "out.gguf", directory).problems == []


def test_dynamic_ntk_is_fixed_for_the_pretraining_length(tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = make("llama", torch.float32, rope_parameters=rope, max_position_embeddings=16)
    model.save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m", tiny_tokenizer())
    options = ExportOptions("f32", SchemeOptions(pretraining_length=40))
    scheme = export_model(tmp_path / "m", tmp_path / "out.gguf", options).summary.scheme.choice.scheme
    assert scheme == Scheme(30, 10, 40)
    with patch(model, scheme, rope_length=40):
        wanted = model(tokens(LENGTH)).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), wanted, atol=2e-3)


def test_weights_that_stock_engines_normalise_otherwise_are_noted(tmp_path):
    model = make("qwen2_moe", torch.float32, norm_topk_prob=True)
    model.save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m", tiny_tokenizer())
    notes = export_model(tmp_path / "m", tmp_path / "out.gguf").summary.scheme.notes
    assert any(note.startswith("norm_topk_prob is not what stock llama.cpp assumes") for note in notes)


def test_phi3_states_its_original_context_without_scaling_too(tmp_path):
    """llama.cpp's converter writes the key for every Phi-3."""
    model = make("phi3", torch.float32, original_max_position_embeddings=32)
    model.save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m", tiny_tokenizer())
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf")
    assert GgufFile(tmp_path / "out.gguf")["phi3.rope.scaling.original_context_length"] == 32
    assert exported.summary.scheme.trained.tokens == 64
