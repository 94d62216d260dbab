"""examples/finetune.py in tiny form on the CPU, and what makes training through a patched model right."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tiny_hf import write_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dca_export.reference.borders import SelfExtend  # noqa: E402
from dca_export.reference.hf import patch  # noqa: E402
from dca_export.reference.load import load_reference  # noqa: E402
from dca_export.scheme import Scheme  # noqa: E402


@pytest.fixture(scope="module")
def finetune():
    path = Path(__file__).parents[2] / "examples" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune_example", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks its annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(directory, max_position_embeddings=64)
    return directory


def test_the_script_trains_three_ways_and_says_what_it_changed(
    finetune, source, tmp_path, monkeypatch, capsys
):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the quick brown fox jumps {n} times over the lazy dog. " for n in range(150)))
    options = "--device cpu --length 128 --evaluate 256,512 --steps 6 --rate 5e-3".split()
    paths = ["--model", source, "--text", text, "--out", tmp_path / "out", "--save", tmp_path / "tuned"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *options, *map(str, paths)])
    assert finetune.main() == 0
    report = json.loads((tmp_path / "out" / "finetuned.json").read_text())
    assert [way["way"] for way in report["ways"]] == ["plain", "PI", "DCA"]
    assert report["ways"][1]["rope"] == "linear:2" and report["ways"][2]["scheme"][:3] == [48, 16, 64]
    for way in report["ways"]:
        for row in way["lengths"]:
            low, high = row["ratio_interval"]
            assert low < row["ratio"] < high < 1, "a text of one sentence is learned at once"
            assert row["before_interval"][0] < row["before"] < row["before_interval"][1]
    assert "Fine-tuning with DCA lowers the perplexity under DCA at 512" in " ".join(
        capsys.readouterr().out.split()
    )
    assert load_reference(tmp_path / "tuned").config.max_position_embeddings == 64


@pytest.mark.parametrize("attention", ["dca", SelfExtend(3, 20)])
def test_a_models_gradients_are_those_of_the_dense_form(source, attention):
    scheme = Scheme(24, 8, 32) if attention == "dca" else None
    ids = torch.randint(320, (1, 90), generator=torch.Generator().manual_seed(0))

    def gradients(kernel):
        model = load_reference(source, torch.float64).requires_grad_(True)
        with patch(model, scheme, attention, kernel):
            model(ids, labels=ids, use_cache=False).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    dense, merged = gradients("eager"), gradients("flash")
    # transformers rounds cos and sin to float32, the same for both.
    assert all((dense[name] - merged[name]).abs().max() < 1e-9 for name in dense)


def test_the_loss_by_rows_is_the_models(finetune, source, monkeypatch):
    monkeypatch.setattr(finetune, "LOSS_ROWS", 7)
    model = load_reference(source)
    ids = torch.arange(40)
    with torch.no_grad():
        assert finetune.nll_of(model, ids).mean() == pytest.approx(
            float(model(ids[None], labels=ids[None]).loss), abs=1e-5
        )
