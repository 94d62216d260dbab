"""A chat on a terminal."""

import contextlib
import re
import subprocess

import pytest
from terminal import Terminal

from dca_export.cli.shared.chat import _messages


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16))


@pytest.fixture
def chat(path):
    """``chat(*arguments)`` is a chat with a tiny model on a terminal, at its first prompt."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> Terminal:
            command = [path, "--chat", "--temp", "0", "-n", "4", *arguments]
            terminal = stack.enter_context(Terminal(*command, **environment))
            terminal.until("> ")
            return terminal

        yield start


def test_a_chat_on_a_terminal_answers_and_ends(smollm2_gguf):
    with Terminal(str(smollm2_gguf), "--chat", "--temp", "0", "-n", "30") as terminal:
        terminal.until("> ")
        terminal.type("What is the capital of France?\n")
        assert "Paris" in terminal.until("tokens/s]")
        terminal.until("> ")
        terminal.type("And of Italy?\n")
        assert "Rome" in terminal.until("tokens/s]")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=30) == 0


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(smollm2_gguf):
    with Terminal(str(smollm2_gguf), "--chat", "--temp", "0", "-n", "2000") as terminal:
        terminal.until("> ")
        terminal.type("Write a long story about a dragon.\n")
        terminal.until("dragon.\r\n")  # the terminal's echo
        terminal.until(" ")
        terminal.interrupt()
        terminal.until("tokens/s]")
        terminal.until("> ")
        # A signal between the prompt and the read behind it is seen only after the read, so ask again.
        for _ in range(10):
            terminal.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.process.wait(timeout=2)
                break
        assert terminal.process.returncode == 130


def ends_at_ctrl_d(terminal: Terminal) -> bool:
    terminal.type("\x04")
    return terminal.process.wait(timeout=30) == 0


def read_tokens(seen: str) -> int:
    """How many tokens the answer's closing line says were read."""
    return int(re.findall(r"\[prompt (\d+) tokens", seen)[-1])


def tokens_of(path: str, message: str) -> int:
    """Oracle: the tokens of a chat that begins with that message."""
    import dca_runtime as dca

    with dca.Model(path) as model:
        return len(model.tokenize(model.apply_chat_template([{"role": "user", "content": message}])))


def test_a_pasted_text_of_many_long_lines_is_one_message(chat, path):
    terminal = chat("--context", "40000")
    text = "\n".join(["the in a " * 700] * 3)  # 6,300 bytes a line; without editing a terminal takes 4,095
    terminal.type(f"\x1b[200~{text}\x1b[201~")
    terminal.type("\n")
    assert read_tokens(terminal.until("tokens/s]")) == tokens_of(path, text.strip())
    terminal.until("> ")
    assert ends_at_ctrl_d(terminal)


def test_arrow_keys_edit_and_recall(chat, path):
    terminal = chat()
    for typed in ["the i\x1b[Dn \n", "\x1b[A\x1b[A\n"]:  # the second: up to the first again, and no further
        terminal.type(typed)
        seen = terminal.until("tokens/s]")
        terminal.until("> ")
        if "\x1b[D" in typed:
            assert read_tokens(seen) == tokens_of(path, "the n i")
    assert "the n i" in seen


@pytest.mark.parametrize("handler", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_do_not_end_the_chat(chat, handler):
    terminal = chat(PYTHONIOENCODING=f"utf-8:{handler}")
    terminal.type(b"caf\xe9\n")
    terminal.until("> ")
    terminal.type("the\n")
    terminal.until("tokens/s]")
    terminal.until("> ")
    assert ends_at_ctrl_d(terminal)


def typed(monkeypatch, *lines: str | BaseException) -> list[str]:
    """The messages of somebody who types those lines, and then Ctrl-D."""
    waiting = [*lines, EOFError()]

    def answer(prompt: str) -> str:
        line = waiting.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    return list(_messages())


def test_what_is_no_text_is_not_asked(monkeypatch):
    wrong = UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid")
    assert typed(monkeypatch, "caf\udce9", wrong, "  ", "the") == ["the"]


def test_one_ctrl_c_is_forgiven_and_two_in_a_row_are_not(monkeypatch):
    assert typed(monkeypatch, KeyboardInterrupt(), "the", KeyboardInterrupt()) == ["the"]
    with pytest.raises(KeyboardInterrupt):
        typed(monkeypatch, "the", KeyboardInterrupt(), KeyboardInterrupt())


def test_lines_that_go_on_are_one_message(monkeypatch):
    assert typed(monkeypatch, "one\\", "two\\", "three", "four") == ["one\ntwo\nthree", "four"]


def test_ctrl_c_at_the_prompt_drops_the_line_and_a_second_one_ends_the_chat(chat):
    terminal = chat()
    terminal.type("the")
    terminal.until("the")
    terminal.interrupt()
    terminal.until("Ctrl-C again")
    terminal.until("> ")
    terminal.type("in\n")
    terminal.until("tokens/s]")
    terminal.until("> ")
    terminal.interrupt()
    terminal.until("Ctrl-C again")
    terminal.until("> ")
    terminal.interrupt()
    assert terminal.process.wait(timeout=30) == 130


def test_a_full_context_drops_the_oldest_turns_and_says_so(chat):
    terminal = chat("--context", "100")
    for _ in range(5):
        terminal.type("the in a the in a\n")
        seen = terminal.until("tokens/s]")
        terminal.until("> ")
    assert "left out" in seen and "--context" in seen
    assert ends_at_ctrl_d(terminal)


def test_a_question_that_never_fits_is_said_and_the_chat_goes_on(chat):
    terminal = chat("--context", "60")
    terminal.type("the " * 80 + "\n")
    terminal.until("--context")
    terminal.until("> ")
    terminal.type("the\n")
    terminal.until("tokens/s]")


def test_a_file_is_read_with_the_next_question(chat, tmp_path):
    file = tmp_path / "a text.txt"
    file.write_text("the in a " * 300)
    terminal = chat()
    terminal.type(f"/file {file}\n")
    terminal.until("read with the next question")
    terminal.until("> ")
    terminal.type("the\n")
    seen = terminal.until("tokens/s]")
    assert "reading" in seen and "keys and values" in seen


@pytest.mark.parametrize(
    ("typed", "says"), [("/file", "needs the PATH"), ("/file no-such-file", "No such file")]
)
def test_a_wrong_file_is_said_and_the_chat_goes_on(chat, typed, says):
    terminal = chat()
    terminal.type(f"{typed}\n")
    terminal.until(says)
    terminal.until("> ")
    assert ends_at_ctrl_d(terminal)


def test_ctrl_c_while_reading_leaves_the_question_out(smollm2_gguf, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text("one two three " * 4000)
    with Terminal(str(smollm2_gguf), "--doc", str(file), "-n", "4", "--temp", "0") as terminal:
        terminal.until("> ")
        terminal.type("What comes after two?\n")
        terminal.until("about ")
        terminal.interrupt()
        terminal.until("[stopped]")
        terminal.until("> ")
        assert ends_at_ctrl_d(terminal)


def test_a_terminal_without_utf_8_shows_what_it_can(chat):
    terminal = chat(PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    terminal.type("the\n")
    assert "Traceback" not in terminal.until("tokens/s]")
    terminal.until("> ")
    assert ends_at_ctrl_d(terminal)
