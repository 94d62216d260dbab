"""Outputs that would do harm, or could not be written, are refused before any work."""

import importlib
import shutil

import pytest

from dca_export.cli.shared.display import _fitting
from dca_export.cli.shared.outputs import check_outputs, write_json
from dca_export.errors import InputError
from dca_runtime import PromptStore


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"--json": "none/x.json"}, "there is no folder"),
        ({"--json": "."}, "is a folder"),
        ({"--json": "x", "--results": "./x"}, "--results x: would overwrite what --json names"),
        ({"--json": "text"}, "would overwrite what --text names"),
        ({"--json": "link"}, "would overwrite what --text names"),
        ({"--json": "other.gguf"}, "is a model"),
        ({"--json": "checkpoint/config.json"}, "would overwrite what --reference names"),
    ],
)
def test_refused(tmp_path, monkeypatch, outputs, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a book")
    (tmp_path / "link").hardlink_to(tmp_path / "text")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=says):
        check_outputs(outputs, {"--text": "text", "--reference": "checkpoint"})


def test_others_are_not(tmp_path):
    check_outputs({"--json": "-", "--plot": None, "--results": tmp_path / "r"}, {"--text": tmp_path / "t"})


def test_columns_that_do_not_fit_come_in_a_second_table():
    columns = ["name", *(f"column {index}" for index in range(9))]
    groups = _fitting(columns, [["a", *["1.23e-05"] * 9]], 80)
    assert [index for group in groups for index in group if index] == list(range(1, 10))
    assert len(groups) == 2 and all(group[0] == 0 for group in groups)
    assert _fitting(columns, [], 200) == [list(range(10))]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("bench", "MODEL -p 8 -n 1 -r 1 --json MODEL"),
        ("eval", "perplexity MODEL --text TEXT --lengths 20 --json TEXT"),
        ("eval", "perplexity MODEL --text TEXT --lengths 20 --results MODEL"),
        ("parity", "MODEL --length 20 --json MODEL"),
        ("parity", "MODEL --length 20 --text TEXT --json TEXT"),
        ("export", "imatrix MODEL TEXT OUT --json TEXT"),
        ("export", "imatrix MODEL TEXT TEXT --force"),
        ("export", "imatrix MODEL TEXT MODEL --force"),
        ("export", "MODEL OUT --json MODEL"),
        ("export", "MODEL OUT --tune TEXT --json TEXT"),
        ("export", "MODEL TEXT --tune TEXT --force"),
        ("export", "MODEL OUT --imatrix TEXT --json TEXT"),
        ("export", "MODEL OUT --lora TEXT --json TEXT"),
        ("export", "MODEL TEXT --lora TEXT --force"),
        ("cache", "list --cache-dir STORE --json MODEL"),
    ],
)
def test_no_command_writes_over_what_it_reads(tiny_gguf, tmp_path, capsys, command, arguments):
    named = {name: tmp_path / name.lower() for name in ("MODEL", "TEXT", "OUT", "STORE")}
    shutil.copyfile(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16), named["MODEL"])
    named["TEXT"].write_text("the quick brown fox " * 20)
    PromptStore(named["STORE"])
    before = {name: named[name].read_bytes() for name in ("MODEL", "TEXT")}
    main = importlib.import_module(f"dca_export.cli.{command}").main
    assert main([str(named.get(word, word)) for word in arguments.split()]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and any(str(named[name]) in errors for name in before)
    assert {name: named[name].read_bytes() for name in before} == before
    assert not named["OUT"].exists()


def test_a_full_disk_is_said_with_the_files_name():
    with pytest.raises(OSError) as full:
        write_json([1], "/dev/full")
    assert full.value.filename == "/dev/full"
