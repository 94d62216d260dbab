"""benchmarks/results.py: every part runs, and its JSON makes the tables that docs/results.md shows."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

SMALL = {
    "perplexity": ["--attention", "plain,dca", "--lengths", "100,200", "--window", 64],
    "passkey": ["--attention", "plain,dca", "--lengths", "600", "--depths", "10,90", "--trials", 1],
    "needle": ["--attention", "plain", "--lengths", "500", "--depths", "10", "--trials", 1],
    "ablation": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", 1],
    "efficiency": ["--attention", "plain", "--lengths", "64", "--decode", 2],
    "sweep": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", 1],
}


@pytest.fixture(scope="module")
def results():
    path = Path(__file__).parents[2] / "benchmarks" / "results.py"
    spec = importlib.util.spec_from_file_location("results_page", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks its annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(results, monkeypatch, tmp_path, tiny_gguf):
    gguf = tiny_gguf(tokenizer=True, scheme=(96, 32, 128), context_length=128, layers=1)
    text = tmp_path / "book.txt"
    text.write_text("".join(f"This is sentence {n} of the book.\n" for n in range(200)), encoding="utf-8")
    for name, part in results.PARTS.items():
        small = dataclasses.replace(part, arguments=SMALL[part.experiment or name])
        monkeypatch.setitem(results.PARTS, name, small)

    def run(*arguments) -> Path:
        out = tmp_path / "out"
        words = ["results.py", "--device", "cpu", "--model", gguf, "--text", text, "--out", out, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        assert results.main() == 0
        return out

    return run


def test_every_part_runs_and_is_shown(results, run):
    out = run()
    tables = (out / "tables.md").read_text()
    assert [line for line in tables.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in results.PARTS
    ]
    # A section a part, and the verdict.
    assert (out / "report.html").read_text().count("<h2>") == len(results.PARTS) + 1
    for name in results.PARTS:
        assert (out / f"{name}.png").exists()
        used = json.loads((out / f"{name}.json").read_text())
        assert used["command"][1] in SMALL and "--device" in used["command"]


def test_parts_run_in_separate_sittings(run):
    run("--parts", "efficiency")
    out = run("--parts", "passkey")
    tables = (out / "tables.md").read_text()
    assert "## efficiency" in tables and "| plain | 0 of 2 [0, 66] |" in tables


def test_a_finished_part_is_not_run_again(run):
    out = run("--parts", "efficiency")
    before = (out / "efficiency.json").stat().st_mtime_ns
    run("--parts", "efficiency")
    assert (out / "efficiency.json").stat().st_mtime_ns == before


def test_an_unknown_part_is_said(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--parts", "perplexity,nonsense")
    assert stop.value.code == 2
    assert "nonsense" in capsys.readouterr().err
