"""dca-export --tune: what is written where, and what does not go with it."""

import json

import numpy as np
import pytest

from dca_export.cli.export import main
from dca_export.evaluate import tune
from dca_export.gguf.file import GgufFile
from dca_export.gguf.scheme_keys import read_scheme
from dca_export.scheme import Scheme


@pytest.fixture
def model(tiny_gguf):
    return tiny_gguf(tokenizer=True, context_length=64)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("the cat in the hat sat on a mat. " * 50)
    return tmp_path / "text.txt"


def export(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_chosen_scheme_and_its_evidence_are_written(monkeypatch, model, text, tmp_path, capsys):
    def tuned(model, text, seconds, progress):
        default = Scheme(*model.scheme)
        assert default == Scheme(48, 16, 64) and seconds == 180.0
        trials = [
            tune.Trial(default, np.array([2.0]), np.array([95]), 2.0, [True, False]),
            tune.Trial(Scheme(16, 16, 32), np.array([1.5]), np.array([95]), 1.5, [True]),
        ]
        return tune.Tuned(trials[1].scheme, default, "chosen: 16/16/32", trials, 96, 2, 5.0)

    monkeypatch.setattr(tune, "tune", tuned)
    output = tmp_path / "out.gguf"
    assert export(model, output, "--tune", text, "--tune-minutes", 3) == 0
    file = GgufFile(output)
    assert read_scheme(file, "") == Scheme(16, 16, 32)
    assert file["dca.tune.verdict"] == "chosen: 16/16/32"
    evidence = json.loads(file["dca.tune.evidence"])
    assert evidence["keys"] == 2 and evidence["text"] == "text.txt" and len(evidence["trials"]) == 2
    report = (tmp_path / "out.gguf.tune.md").read_text()
    assert "16/16/32" in report and evidence["text_sha256_of_first_mib"] in report and "1 of 2" in report
    assert "tuned    chosen" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "out.gguf.tune.md", "text.txt"]
    assert export("--verify", output, model) == 0
    for options, kept in (([], True), (["--chunk-size", 8], False)):
        copy = tmp_path / f"copy-{kept}.gguf"
        assert export(output, copy, *options) == 0
        assert ("dca.tune.evidence" in GgufFile(copy)) == kept  # evidence for another scheme is none


def test_a_text_that_is_too_short_leaves_the_default_and_says_so(model, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("the cat")
    assert export(model, tmp_path / "out.gguf", "--tune", tmp_path / "short.txt") == 0
    assert read_scheme(GgufFile(tmp_path / "out.gguf"), "") == Scheme(48, 16, 64)
    assert "the default stays: the text has" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [["--no-dca"], ["--chunk-size", 8], ["--local-window", 8], ["--format", "hf"], ["--dry-run"]],
    ids=str,
)
def test_what_does_not_go_with_it_is_said(model, text, tmp_path, capsys, options):
    assert export(model, tmp_path / "out.gguf", "--tune", text, *options) == 2
    assert f"{options[0]}" in capsys.readouterr().err and not (tmp_path / "out.gguf").exists()


def test_a_missing_text_and_a_report_that_is_there_are_said_first(model, text, tmp_path, capsys):
    assert export(model, tmp_path / "out.gguf", "--tune", tmp_path / "none.txt") == 2
    assert "none.txt: no such file" in capsys.readouterr().err
    assert export(model, tmp_path / "out.gguf", "--tune-minutes", 3) == 2
    (tmp_path / "out.gguf.tune.md").write_text("mine")
    assert export(model, tmp_path / "out.gguf", "--tune", text) == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "out.gguf.tune.md").read_text() == "mine"
