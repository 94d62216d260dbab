"""dca-cache: what it shows and removes."""

import json
import os
import time

import pytest

from dca_export.cli.cache import main
from dca_runtime import PromptStore


@pytest.fixture
def store(tmp_path):
    """Two setups: one with prompts of 6 and of 4 pages that share 2, one with a prompt of 3."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "prompt_store"))
    from pretended import PAGE, keep, prompt

    store = PromptStore(tmp_path / "store", limit=10**7)
    keep(store, prompt(1, 6), name="one")
    keep(store, [*prompt(1, 2), *prompt(2, 2)], name="one")
    keep(store, prompt(3, 3), name="two")
    assert PAGE == 128
    return tmp_path / "store"


def run(capsys, action: str, store, *arguments: str):
    assert main([action, *arguments, "--cache-dir", str(store), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def pages(store) -> list:
    return sorted(store.glob("*/*.pages"), key=lambda path: path.stat().st_mtime_ns)


def test_list_tells_each_setup(store, capsys):
    figures = run(capsys, "list", store)
    assert figures["limit_bytes"] == 10**7
    assert figures["used_bytes"] == sum(path.stat().st_size for path in pages(store))
    assert [one["prompts"] for one in figures["setups"]] == [[384], [768, 512]]
    assert [one["tokens"] for one in figures["setups"]] == [384, 1024]


def test_show_tells_one_setup_by_the_beginning_of_its_name(store, capsys):
    name = run(capsys, "list", store)["setups"][1]["setup"]
    figures = run(capsys, "show", store, name[:5])
    assert figures["lines"] == ["model one"]
    assert sorted(file["pages"] for file in figures["files"]) == [2, 6]


def test_tables_are_for_people(store, capsys):
    assert main(["list", "--cache-dir", str(store)]) == 0
    assert str(store) in capsys.readouterr().out
    name = run(capsys, "list", store)["setups"][1]["setup"]
    assert main(["show", name, "--cache-dir", str(store)]) == 0
    assert "768 tokens, 512 tokens" in capsys.readouterr().out


def test_a_prompt_whose_start_is_gone_is_none(store, capsys):
    next(path for path in pages(store) if path.stat().st_size > 4096 + 5 * 256).unlink()
    assert [one["prompts"] for one in run(capsys, "list", store)["setups"]] == [[384], []]


def test_prune_removes_the_longest_unused(store, capsys):
    oldest, *others = pages(store)
    size = sum(path.stat().st_size for path in others)
    figures = run(capsys, "prune", store, "--size", str(size))
    assert pages(store) == others
    assert figures["removed_files"] == 1 and figures["left_bytes"] == size
    assert run(capsys, "list", store)["limit_bytes"] == 10**7


def test_prune_removes_what_was_not_used_for_days_and_what_is_damaged(store, capsys):
    old, damaged, kept = pages(store)
    os.utime(old, (time.time() - 40 * 86400,) * 2)
    damaged.write_bytes(b"x" * 5000)
    run(capsys, "prune", store, "--older", "30")
    assert pages(store) == [kept]


def test_prune_without_need_removes_nothing(store, capsys):
    assert run(capsys, "prune", store)["removed_files"] == 0
    assert len(pages(store)) == 3


def test_clear_removes_one_setup_or_all(store, capsys):
    name = run(capsys, "list", store)["setups"][0]["setup"]
    run(capsys, "clear", store, name)
    assert [one["prompts"] for one in run(capsys, "list", store)["setups"]] == [[768, 512]]
    run(capsys, "clear", store)
    assert run(capsys, "list", store)["setups"] == []


def test_clear_leaves_what_is_not_the_stores(store, capsys):
    (store / "photos").mkdir()
    (store / "photos" / "one.txt").touch()
    mine = pages(store)[0].with_name("notes.txt")
    mine.touch()
    run(capsys, "clear", store)
    assert pages(store) == [] and mine.exists() and (store / "photos" / "one.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "zz"], "no setup"),
        (["show", ""], "no setup"),
        (["prune", "--size", "x"], "20G"),
        ([], "ACTION"),
        (["open"], "invalid choice"),
    ],
)
def test_wrong_use_is_one_line_and_2(store, capsys, arguments, says):
    assert main([*arguments, *(["--cache-dir", str(store)] if arguments[1:] else [])]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and says in errors


def test_no_store_is_a_line(tmp_path, capsys):
    assert main(["list", "--cache-dir", str(tmp_path / "none")]) == 2
    assert "no prompt store" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_empty_folder_is_not_made_a_store(tmp_path, capsys):
    assert main(["list", "--cache-dir", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
