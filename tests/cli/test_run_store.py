"""dca-run with a store: the second question reads nothing again, and answers the same."""

import json
import os
import re
import stat

import pytest
from terminal import Terminal

from dca_export.cli.cache import main as cache
from dca_export.cli.run import main


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16))


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("".join(f"the {word} in a the " for word in range(400)), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def ask(capsys, path, *arguments: str) -> str:
    assert main([path, *arguments, "-n", "6", "--temp", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def figures(capsys, folder) -> dict:
    assert cache(["list", "--cache-dir", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def loads(monkeypatch) -> list[int]:
    """How many tokens each following prompt takes from a store."""
    from dca_runtime.prompt_store import Prompts

    counts, real = [], Prompts.load_into
    monkeypatch.setattr(
        Prompts, "load_into", lambda *arguments: counts.append(real(*arguments)) or counts[-1]
    )
    return counts


def test_the_second_question_is_answered_from_the_store_and_the_same(path, book, folder, capsys, monkeypatch):
    counts = loads(monkeypatch)
    stored = ["--cache-dir", str(folder), "--doc", str(book)]
    answers = [ask(capsys, path, *stored, "in the?") for _ in range(2)]
    assert answers[0] == answers[1] == ask(capsys, path, "--no-cache", "--doc", str(book), "in the?")
    assert counts[0] == 0 and counts[1] > 1000
    ask(capsys, path, *stored, "another the")
    assert counts[2] >= counts[1] - 128


def test_an_edit_is_read_again_from_there_on(path, book, folder, capsys, monkeypatch):
    counts = loads(monkeypatch)
    ask(capsys, path, "--cache-dir", str(folder), "--doc", str(book), "the")
    text = book.read_text()
    book.write_text(text[: len(text) // 2] + "EDIT" + text[len(text) // 2 :])
    edited = ask(capsys, path, "--cache-dir", str(folder), "--doc", str(book), "the")
    assert edited == ask(capsys, path, "--no-cache", "--doc", str(book), "the")
    ask(capsys, path, "--cache-dir", str(folder), "--doc", str(book), "the")
    assert counts[2] * 0.4 < counts[1] < counts[2] * 0.6


def test_no_cache_makes_no_store(path, book, folder, capsys):
    ask(capsys, path, "--no-cache", "--cache-dir", str(folder), "--doc", str(book), "the")
    assert not folder.exists()


def test_a_short_prompt_makes_no_store(path, folder, capsys):
    ask(capsys, path, "--cache-dir", str(folder), "-p", "the in")
    assert not folder.exists()


def test_documents_are_read_in_the_order_that_shares_most(path, book, folder, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[::-1], encoding="utf-8")
    third = tmp_path / "third.txt"
    third.write_text("a third of them", encoding="utf-8")
    counts = loads(monkeypatch)
    stored = ["--cache-dir", str(folder)]
    ask(capsys, path, *stored, "--doc", str(book), "--doc", str(other), "the")
    ask(capsys, path, *stored, "--doc", str(other), "--doc", str(third), "--doc", str(book), "the")
    assert counts[1] > 4000


def test_documents_of_one_name_are_told_apart(path, tmp_path):
    from dca_export.cli.shared.documents import documents_at

    paths = [tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt", tmp_path / "y.txt"]
    for file in paths:
        file.parent.mkdir(exist_ok=True)
        file.write_text("the")
    names = [document.name for group in documents_at([str(file) for file in paths]) for document in group]
    assert names == [str(paths[0]), str(paths[1]), "y.txt"]


def test_the_size_can_be_set(path, book, folder, capsys):
    ask(capsys, path, "--cache-dir", str(folder), "--cache-disk", "30M", "--doc", str(book), "the")
    assert figures(capsys, folder)["limit_bytes"] == 30_000_000


@pytest.mark.parametrize("size", ["", "x", "0", "nan", "5Q", "infG"])
def test_sizes_that_are_none(path, capsys, size):
    assert main([path, "--cache-disk", size, "the"]) == 2
    assert "20G" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_in_a_line(path, book, tmp_path, capsys):
    assert main([path, "--cache-dir", str(tmp_path), "--doc", str(book), "the"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "something else" in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_nobody_asked_for_that_cannot_be_is_only_warned_of(path, book, tmp_path, capsys, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv("DCA_CACHE_DIR", str(closed / "store"))
    assert main([path, "--doc", str(book), "the", "-n", "2"]) == 0
    assert "going on without" in capsys.readouterr().err


# On a terminal.


def test_a_terminal_is_told_what_is_read_before_it_is(path, book, folder):
    arguments = [path, "--cache-dir", str(folder), "--doc", str(book), "the", "-n", "4", "--temp", "0"]
    with Terminal(*arguments) as terminal:
        seen = terminal.until("tokens/s]")
    assert "prompts are kept in" in seen and "keys and values take" in seen
    assert "read before" not in seen and "first token after" in seen
    with Terminal(*arguments) as terminal:
        seen = terminal.until("tokens/s]")
    known = re.search(r"reading ([\d,]+) tokens, ([\d,]+) of them read before, .*, about \d", seen)
    assert known is not None, seen
    assert "prompts are kept in" not in seen and f"{known[2]} of them stored" in seen


@pytest.fixture
def chat(path, folder):
    arguments = [path, "--chat", "--temp", "0", "-n", "4", "--cache-dir", str(folder)]
    with Terminal(*arguments) as terminal:
        terminal.until("> ")
        yield terminal


def answered(terminal: Terminal, typed: str, end: str = "tokens/s]") -> str:
    terminal.type(f"{typed}\n")
    seen = terminal.until(end)
    terminal.until("> ")
    return seen


def test_a_conversation_is_saved_as_messages(chat, tmp_path):
    answered(chat, "the in a")
    file = tmp_path / "talk.json"
    answered(chat, f"/save {file}", "as JSON")
    question, answer = json.loads(file.read_text())
    assert question == {"role": "user", "content": "the in a"} and answer["role"] == "assistant"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists" in answered(chat, f"/save {file}", "exists")
    assert "needs the PATH" in answered(chat, "/save", "to write")


def test_a_conversation_is_forgotten_here_and_in_the_store(chat, folder, capsys):
    answered(chat, "the in a " * 100)
    held = re.search(r"store: holds (\d+) tokens", answered(chat, "/stats", str(folder)))
    assert held is not None and int(held[1]) >= 256
    assert figures(capsys, folder)["setups"][0]["tokens"] >= 256
    answered(chat, "/forget", "new conversation]")
    assert figures(capsys, folder)["used_bytes"] == 0
    assert "store: holds 0 tokens" in answered(chat, "/stats", str(folder))
    answered(chat, "the")


def test_a_folder_is_added_to_a_chat(chat, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.py").write_text("the in")
    (source / "two.py").write_text("in the")
    assert "2 files" in answered(chat, f"/file {source}", "next question")
    answered(chat, "the")


def test_what_a_chat_said_is_found_by_the_next_one(path, folder, monkeypatch):
    arguments = [path, "--chat", "--temp", "0", "-n", "300", "--cache-dir", str(folder)]
    question = "the in a " * 60
    for expected in (r"store: holds (\d+) tokens", r"(\d+) of them stored"):
        with Terminal(*arguments) as terminal:
            terminal.until("> ")
            seen = answered(terminal, question)
            if "holds" in expected:
                seen = answered(terminal, "/stats", str(folder))
            assert int(re.search(expected, seen)[1]) >= 128
