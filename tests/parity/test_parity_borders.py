"""Attentions whose border moves with the query, for every family: layers with a window keep it."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make_case  # noqa: E402
from hf_to_gguf import write_gguf  # noqa: E402

from dca_export.cli.parity import main  # noqa: E402

METHODS = "string:15/4,streaming:3/20,lm-infinite:3/20"
ROPES = "plain@dynamic:2,plain@ntk:3,plain@linear:2"
# Their softmax has a cap or sinks, which the reference has for chunks alone.
LACKING = {"gemma2", "gpt-oss"}


@pytest.mark.parametrize("case", [case for case in GGUF_CASES if case not in LACKING])
def test_the_runtime_is_the_reference(case, tmp_path, capsys):
    model, keys, extra = make_case(case)
    path = write_gguf(tmp_path / "model.gguf", model, keys, extra)
    code = main([str(path), "--length", "70", "--attention", METHODS])
    assert code == 0, "".join(capsys.readouterr())


@pytest.mark.parametrize("case", ["llama", "llama, linear", "llama, llama3", "llama, yarn"])
def test_another_rope_scaling_replaces_the_models_own(case, tmp_path, capsys):
    model, keys, extra = make_case(case)
    path = write_gguf(tmp_path / "model.gguf", model, keys, extra)
    code = main([str(path), "--length", "150", "--attention", ROPES])
    assert code == 0, "".join(capsys.readouterr())
