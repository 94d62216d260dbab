"""Every command and program of the documentation runs as it stands, but those that say why they cannot.

What a reader has lies in the folder that a page's blocks run in, small: a checkpoint, a model, texts.
Installing (`pip`, `make`) is no part of it: `make test-wheel` does that in an empty system.
"""

import argparse
import importlib
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from blocks import PROGRAMS, ROOT, RUN, all_blocks, command_lines
from terminal import Terminal
from tiny_hf import write_tiny_model

COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
INSTALLING = ("pip", "make")
SECONDS = 300
BLOCKS = all_blocks()
SENTENCES = (
    "Nobody knew who had taken the silver spoon. The butler said that it was not him, and looked away.\n"
)
READ = 230  # times the sentences: more than 16,384 tokens


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_gguf) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    write_tiny_model(folder / "path" / "to" / "checkpoint")
    write_tiny_model(folder / "MODEL")
    shutil.copy(tiny_gguf(tokenizer=True, seed=1), folder / "old.gguf")
    model = tiny_gguf(tokenizer=True, scheme=(192, 64, 256), context_length=256)
    shutil.copy(model, folder / "model.gguf")
    for name in ("book.txt", "notes.txt", "text.txt"):
        (folder / name).write_text(SENTENCES * READ, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder_of(prepared, tmp_path_factory):
    """``folder_of(page)``: the blocks of a page run in one folder."""
    folders: dict[str, Path] = {}

    def folder(page: str) -> Path:
        if page not in folders:
            folders[page] = tmp_path_factory.mktemp("page") / "folder"
            shutil.copytree(prepared, folders[page])
        return folders[page]

    return folder


@pytest.fixture(scope="module")
def server(prepared):
    """The address of a server of the model."""
    process = serve(prepared, ["model.gguf", "--port", "0"])
    yield listening(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def python_of(program: str, arguments: list[str]) -> list[str]:
    """A command of ours, run by this Python whether or not its scripts are on the path."""
    module, _, main = COMMANDS[program].partition(":")
    return [sys.executable, "-c", f"import sys; from {module} import {main}; sys.exit({main}())", *arguments]


def serve(folder: Path, arguments: list[str]) -> subprocess.Popen:
    command = python_of("dca-serve", arguments)
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def listening(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening on http://(\S+)", line):
            return found[1]
    pytest.fail(f"the server ended with {process.wait()}")


def run_command(words: list[str], folder: Path, server_address) -> None:
    program, *arguments = words
    if program in INSTALLING:
        return
    if program == "dca-serve":
        process = serve(folder, [*arguments, "--port", "0"])
        listening(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        return
    if program == "dca-run" and arguments[1:] == ["--chat"]:
        with Terminal(*arguments) as terminal:
            terminal.until("> ")
            terminal.type("\x04")
            assert terminal.process.wait(timeout=60) == 0
        return
    if program == "dca-export":  # the first of the alternatives that write to one name is what goes on
        made = folder / "made" / arguments[1]
        if made.exists():
            arguments[1] = f"{len(list(made.parent.iterdir()))}-{arguments[1]}"
        else:
            made.parent.mkdir(exist_ok=True)
            made.touch()
            (folder / arguments[1]).unlink(missing_ok=True)
    if program == "curl":
        address = server_address()
        arguments = ["-fsS", *(word.replace("127.0.0.1:8080", address) for word in arguments)]
    words = python_of(program, arguments) if program in COMMANDS else [program, *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh" and not b.reason], ids=str)
def test_commands_run(block, folder_of, monkeypatch, request):
    folder = folder_of(block.page)
    monkeypatch.chdir(folder)
    for words in command_lines(block):
        run_command(words, folder, lambda: request.getfixturevalue("server"))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and not b.reason], ids=str)
def test_programs_run(block, folder_of):
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", block.text]
    done = subprocess.run(command, cwd=folder_of(block.page), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_commands_take_the_arguments_that_the_text_gives_them(block, monkeypatch, capsys):
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser, argv=None):
        parse(parser, argv)
        parser.exit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    for program, *arguments in command_lines(block):
        if program in COMMANDS and not any("$" in word for word in arguments):
            module, _, main = COMMANDS[program].partition(":")
            code = getattr(importlib.import_module(module), main)(arguments)
            assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language not in RUN], ids=str)
def test_a_block_of_commands_says_that_it_is_one(block):
    assert not block.text.startswith(PROGRAMS)
    assert block.reason is None
