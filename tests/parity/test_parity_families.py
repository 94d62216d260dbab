"""The native runtime against PyTorch for every architecture and rope kind that both know."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make_case  # noqa: E402
from hf_to_gguf import write_gguf  # noqa: E402

from dca_export.cli.parity import main  # noqa: E402

SCHEME_KEYS = {
    "attention.dca.chunk_size": 15,
    "attention.dca.local_window": 4,
    "attention.dca.pretraining_length": 24,
}


@pytest.mark.parametrize("case", GGUF_CASES)
def test_the_runtime_is_the_original_model_under_dca(case, tmp_path, capsys):
    model, keys, extra = make_case(case)
    path = write_gguf(tmp_path / "model.gguf", model, {**keys, **SCHEME_KEYS}, extra)
    model.save_pretrained(tmp_path / "original")
    report = tmp_path / "report.json"
    arguments = [path, "--reference", tmp_path / "original", "--length", 70, "--json", report]
    code = main([str(argument) for argument in arguments])
    assert code == 0, "".join(capsys.readouterr())
    parts = json.loads(report.read_text())["parts"]
    assert {part["borders"] for part in parts if part["scheme"]} == {4}
