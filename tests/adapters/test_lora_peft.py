"""PEFT's own adapters, saved by it: the exported model gives the logits of PEFT's model."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from tiny_hf import write_tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import dca_runtime as dca  # noqa: E402
from dca_export.adapters.changes import AdapterOption  # noqa: E402
from dca_export.export.plan import ExportOptions  # noqa: E402
from dca_export.export.scheme_choice import SchemeOptions  # noqa: E402
from dca_export.export.write import export_model  # noqa: E402

LINEAR = ["q_proj", "v_proj", "down_proj"]
KINDS = {
    "linear": {"target_modules": LINEAR},
    "rslora": {"target_modules": LINEAR, "use_rslora": True},
    "patterns": {"target_modules": LINEAR, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 5}},
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
    "head": {"target_modules": [*LINEAR, "lm_head"]},
    "saved whole": {"target_modules": LINEAR, "modules_to_save": ["lm_head", "embed_tokens"]},
    "all linear": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_peft(tmp_path, kind, tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **KINDS[kind])).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    adapted.save_pretrained(tmp_path / "lora")
    ids = list(np.random.default_rng(0).integers(0, 320, 40))
    with torch.no_grad():
        wanted = adapted(torch.tensor([ids])).logits[0, -1].numpy()
    options = ExportOptions("f32", SchemeOptions(dca=False), adapters=(AdapterOption(tmp_path / "lora"),))
    export_model(tmp_path / "model", tmp_path / "out.gguf", options)
    with (
        dca.Model(tmp_path / "out.gguf", device="cpu") as loaded,
        loaded.session(cache_type="f32") as session,
    ):
        found = session.eval(ids)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
