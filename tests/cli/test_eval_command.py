"""dca-eval from end to end on a small model: tables, JSON, pictures, going on after an interruption."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from dca_export.cli.eval import main


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(96, 32, 128), context_length=128, layers=1))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "book.txt"
    file.write_text("".join(f"This is sentence {n} of the book.\n" for n in range(200)), encoding="utf-8")
    return str(file)


COMMANDS = {
    "perplexity": ["--lengths", "100,200", "--window", "64"],
    "passkey": ["--lengths", "600,700", "--depths", "10,90", "--trials", "1"],
    "needle": ["--lengths", "500", "--depths", "10,90", "--keyword", "the"],
    "recall": ["--lengths", "600", "--tasks", "keys,chain", "--trials", "1"],
    "density": [
        "--lengths",
        "600",
        "--tasks",
        "keys",
        "--trials",
        "1",
        "--attention",
        "plain,plain@sparse:0.5:128",
    ],
    "ablation": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", "1"],
    "efficiency": ["--lengths", "64,128", "--decode", "2"],
    "sweep": ["--lengths", "200", "--passkey-lengths", "600", "--depths", "50", "--trials", "1"],
}
READS_TEXT = ("perplexity", "needle", "density", "ablation", "sweep")


def command(name, path, book):
    text = ["--text", book] if name in READS_TEXT else []
    return [name, path, *COMMANDS[name], *text]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_experiment_runs_resumes_and_is_reported(path, book, tmp_path, capsys, name):
    arguments = command(name, path, book)
    files = ["--results", str(tmp_path / "r.jsonl"), "--plot", str(tmp_path / "p.png")]
    assert main([*arguments, *files, "--json", str(tmp_path / "j.json")]) == 0
    first = capsys.readouterr()
    assert first.err == "" and "tokens" in first.out or name == "sweep"
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "j.json").read_text())
    assert summary["experiment"] == name and summary["results"]
    assert summary["command"][:3] == ["dca-eval", name, path]

    lines = (tmp_path / "r.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join(lines[:2]) + lines[2][:10])
    assert main([*arguments, *files]) == 0
    continued = (tmp_path / "r.jsonl").read_text().splitlines()
    assert sum('"cell"' in line for line in continued) == len(lines) - 1
    if name != "efficiency":  # whose figures are times
        assert capsys.readouterr().out == first.out

    assert main(["report", str(tmp_path / "r.jsonl"), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert f"<h2>{name}</h2>" in page and "data:image/png;base64," in page
    assert page.count(f"<pre>dca-eval {name} ") == 2, "one command for each sitting"
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page), "the page must open offline"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_has_only_begun_is_reported(path, book, tmp_path, capsys, name):
    """As any program may ask for the page of a file that is being written."""
    kept, page = tmp_path / "r.jsonl", tmp_path / "report.html"
    assert main([*command(name, path, book), "--results", str(kept)]) == 0
    lines = kept.read_text().splitlines(keepends=True)
    capsys.readouterr()
    for count in (1, 2):
        kept.write_text("".join(lines[:count]))
        assert main(["report", str(kept), "-o", str(page), "--force"]) == 0, capsys.readouterr().err
        assert ("has been measured yet" in page.read_text()) == (count == 1)


@pytest.mark.parametrize(
    ("part", "value"),
    [("model", {}), ("settings", []), ("versions", None), ("figures", {}), ("figures", {"lengths": "x"})],
)
def test_damaged_results_are_one_line_and_2(path, book, tmp_path, capsys, part, value):
    kept = tmp_path / "r.jsonl"
    assert main([*command("perplexity", path, book), "--results", str(kept)]) == 0
    head, line, *_ = map(json.loads, kept.read_text().splitlines())
    (line if part == "figures" else head)[part] = value
    kept.write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    capsys.readouterr()
    assert main(["report", str(kept), "-o", str(tmp_path / "report.html")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and f"{kept}: holds figures that" in errors
    assert not (tmp_path / "report.html").exists()


def test_json_on_stdout_is_nothing_but_json(path, book, capsys):
    assert main([*command("perplexity", path, book), "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [entry["method"] for entry in summary["results"]] == ["plain", "dca"]
    assert [length["length"] for length in summary["results"][0]["lengths"]] == [100, 200]


def test_methods_are_named_in_any_way(path, book, capsys):
    methods = [
        "--attention",
        "plain,intra",
        "--attention",
        "dca:48/16/64,plain",
        "--attention",
        "dca:048/16/64",
    ]
    assert main([*command("perplexity", path, book), *methods, "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [entry["method"] for entry in summary["results"]] == ["plain", "intra", "dca:48/16/64"]


def test_a_stride_is_the_papers_way(path, book, capsys):
    assert main([*command("perplexity", path, book), "--stride", "50", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings"]["stride"] == 50
    assert [len(entry["windows"]) for entry in summary["results"]] == [0, 0]


def test_a_file_without_a_scheme_runs_plain(tiny_gguf, book, capsys):
    path = str(tiny_gguf(tokenizer=True, context_length=128, layers=1))
    assert main([*command("perplexity", path, book), "--json", "-"]) == 0
    assert [entry["method"] for entry in json.loads(capsys.readouterr().out)["results"]] == ["plain"]


def test_another_runs_results_are_refused(path, book, tmp_path, capsys):
    results = ["--results", str(tmp_path / "r.jsonl")]
    assert main([*command("perplexity", path, book), *results]) == 0
    assert main([*command("passkey", path, book), *results]) == 2
    assert "another run" in capsys.readouterr().err


def test_a_page_is_not_replaced_without_force(tmp_path, path, book, capsys):
    results, page = tmp_path / "r.jsonl", tmp_path / "report.html"
    assert main([*command("perplexity", path, book), "--results", str(results)]) == 0
    page.write_text("mine")
    assert main(["report", str(results), "-o", str(page)]) == 2
    assert page.read_text() == "mine"
    assert main(["report", str(results), "-o", str(page), "--force"]) == 0
    assert "<h2>perplexity</h2>" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "EXPERIMENT"),
        (["juggle"], "juggle"),
        (["perplexity", "no.gguf"], "no.gguf"),
        (["perplexity", "MODEL", "--attention", "dual"], "dual"),
        (["perplexity", "MODEL", "--lengths", "9999999"], "9999999"),
        (["perplexity", "MODEL", "--lengths", "0"], "--lengths"),
        (["perplexity", "MODEL", "--text", "no-such.txt"], "no-such.txt"),
        (["perplexity", "MODEL", "--lengths", "100", "--plot", "plot.exe"], "plot.exe"),
        (["passkey", "MODEL", "--lengths", "20"], "20"),
        (["passkey", "MODEL", "--depths", "101"], "101"),
        (["ablation", "MODEL", "--scheme", "1/2"], "CHUNK"),
        (["sweep", "MODEL", "--chunk-shares", "1.5"], "shares"),
        (["sweep", "MODEL", "--chunk-shares", "1"], "chunk_size"),
        (["report", "no-such.jsonl"], "no-such.jsonl"),
        (["perplexity", "MODEL", "--lengths", str(2**63)], "--lengths"),
        (["efficiency", "MODEL", "--decode", str(2**31)], "--decode"),
        (["efficiency", "MODEL", "--repeats", str(2**31 - 1)], "--repeats"),
        (["passkey", "MODEL", "--trials", str(2**31 - 1)], "--trials"),
        (["passkey", "MODEL", "--seed", str(2**64)], "--seed"),
        (["ablation", "MODEL", "--scheme", ""], "CHUNK"),
        (["ablation", "MODEL", "--scheme", "48/16/64@yarn:4"], "nothing behind"),
        (["needle", "MODEL", "--keyword", ""], "--keyword is empty"),
        (["needle", "MODEL", "--needle", " "], "--needle is empty"),
        (["needle", "MODEL", "--question", ""], "--question is empty"),
        (["needle", "MODEL", "--question", "\udcff"], "not UTF-8"),
        (["needle", "MODEL", "--needle", "The word is xyzzy."], "--keyword of its own"),
        (["needle", "MODEL", "--needle", "It is xyzzy.", "--keyword", "xyzzy"], "--question of its own"),
    ],
)
def test_bad_usage_is_one_line_and_2(path, capsys, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert main([path if part == "MODEL" else part for part in arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and says in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ablation", "sweep"])
def test_the_reference_has_no_sparse_prefill(path, book, capsys, name):
    pytest.importorskip("transformers")
    assert main([*command(name, path, book), "--engine", "reference", "--prefill", "sparse"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "leave --engine reference out" in errors


def test_names_that_are_not_utf8(path, book, tmp_path, capsys):
    """From the command to the page: a byte that is no character is shown as an escape, never written."""
    names = {
        name: os.fsdecode(bytes(tmp_path) + b"/\xff" + name) for name in (b"m.gguf", b"t.txt", b"r.jsonl")
    }
    model, text, kept = names.values()
    shutil.copyfile(path, model)
    shutil.copyfile(book, text)
    picture, page, figures = (
        os.fsdecode(bytes(tmp_path) + b"/\xfe" + name) for name in (b".png", b".html", b".json")
    )
    outputs = ["--results", kept, "--plot", picture, "--json", figures]
    assert main([*command("perplexity", model, text), *outputs]) == 0
    assert main([*command("perplexity", model, text), *outputs]) == 0, "and goes on"
    assert main(["report", kept, "-o", page]) == 0
    capsys.readouterr().out.encode()  # strictly: nothing printed is a lone surrogate
    for written in (kept, figures, page):
        Path(written).read_bytes().decode()
    assert json.loads(Path(figures).read_text())["command"][2].endswith("\\xffm.gguf")
