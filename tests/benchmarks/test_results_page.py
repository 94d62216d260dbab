"""benchmarks/results.py: every part runs, and what it measured makes the tables of docs/results.md."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "perplexity": ["--attention", "plain,dca", "--lengths", "100,200", "--window", 64],
    "passkey": ["--attention", "plain,dca", "--lengths", "600", "--depths", "10,90", "--trials", 1],
    "needle": ["--attention", "plain", "--lengths", "500", "--depths", "10", "--trials", 1],
    "ablation": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", 1],
    "efficiency": ["--attention", "plain", "--lengths", "64", "--decode", 2],
    "density": ["--attention", "plain,plain@sparse", "--lengths", "900", "--tasks", "keys", "--trials", 1],
    "sweep": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", 1],
}
SLIDING = ["--attention", "plain,dca", "--lengths", "100,200,400", "--stride", 90]


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("results")


@pytest.fixture
def run(results, monkeypatch, tmp_path, tiny_gguf):
    gguf = tiny_gguf(tokenizer=True, scheme=(96, 32, 128), context_length=128, layers=1)
    text = tmp_path / "book.txt"
    text.write_text("".join(f"This is sentence {n} of the book.\n" for n in range(200)), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    for name, part in results.PARTS.items():
        arguments = SLIDING if "--stride" in part.arguments else SMALL[part.experiment or name]
        monkeypatch.setitem(results.PARTS, name, dataclasses.replace(part, arguments=arguments))

    def run(*arguments) -> Path:
        out = tmp_path / "out"
        words = ["results.py", "--device", "cpu", "--model", gguf, "--text", text, "--out", out]
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--page", page, *arguments]])
        assert results.main() == 0
        return out

    run.page = page
    return run


def mark(what: str, old: str = "old") -> str:
    return f"<!-- results: {what} -->\n{old}\n<!-- end -->"


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


def test_the_page_takes_tables_words_and_setting_and_keeps_the_rest(run):
    kept = "Written by hand.\n"
    marks = ["perplexity table 1", "passkey words", "perplexity setting"]
    run.page.write_text(kept + "\n\n".join(map(mark, marks)) + "\n" + kept)
    run("--parts", "perplexity,passkey")
    page = run.page.read_text()
    assert page.startswith(kept) and page.endswith(kept) and "old" not in page
    first, second, third = re.findall(r"<!-- results: .*? -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert first.startswith("| mean up to | 100 | 200 | fails from |\n| --- |") and "\n| dca |" in first
    assert second.startswith("- plain does not reliably find what is hidden in 600 tokens")
    assert re.fullmatch(r"\S+\.gguf on cpu .*, \d{4}-\d\d-\d\d", third)
    # What it has written it writes again.
    run("--only", "page")
    assert run.page.read_text() == page


def test_contexts_that_slide_are_compared_with_those_of_the_trained_length(run):
    run.page.write_text(mark("sliding table 3"))
    run("--parts", "sliding")
    _, head, _, *rows, _ = run.page.read_text().splitlines()
    assert head == "| × plain in contexts of 100 | 200 | 400 |"
    assert [row.split(" | ")[0] for row in rows] == ["| plain", "| dca"]
    assert all(re.search(r"\[\S+, \S+\]", cell) for row in rows for cell in row.split(" | ")[1:])


def test_what_was_not_measured_stays_and_is_said(run, capsys):
    run.page.write_text(mark("needle table 1"))
    run("--parts", "efficiency")
    assert run.page.read_text() == mark("needle table 1")
    assert "not measured, so as they were: needle" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("what", ["nonsense table 1", "efficiency table 9"])
def test_a_page_that_asks_for_what_cannot_be_is_said(run, what):
    run.page.write_text(mark(what))
    with pytest.raises(SystemExit, match="expected"):
        run("--parts", "efficiency")
    assert run.page.read_text() == mark(what)


def test_parts_run_in_separate_sittings(run):
    run("--parts", "efficiency", "--only", "measure")
    out = run("--parts", "passkey")
    tables = (out / "tables.md").read_text()
    assert "## efficiency" in tables and "| plain | 0 of 2 [0, 66] |" in tables


def test_a_finished_part_is_not_run_again(run):
    out = run("--parts", "efficiency")
    before = (out / "efficiency.jsonl").read_bytes()
    run("--parts", "efficiency")
    assert (out / "efficiency.jsonl").read_bytes() == before


def test_an_unknown_part_is_said(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--parts", "perplexity,nonsense")
    assert stop.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_the_page_of_this_project_asks_for_parts_that_there_are(results):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    names = re.findall(r"<!-- results: (\S+) (?:table|words|setting)(?: \d+)? -->\n", page)
    assert names and set(names) <= set(results.PARTS)
    assert page.count("<!-- end -->") == len(names)
