"""What all the commands have in common: --version, and help that says what each argument is."""

import argparse
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = PYPROJECT["project"]["scripts"]


def main_of(command):
    module, _, function = COMMANDS[command].partition(":")
    return getattr(importlib.import_module(module), function)


@pytest.fixture
def parsers(monkeypatch):
    """``parsers(command)`` are the command's parser and those of its subcommands."""
    made: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda parser, argv=None: made.append(parser) or exit(0)
    )

    def parsers(command) -> Iterator[argparse.ArgumentParser]:
        assert main_of(command)([]) == 0
        yield made[-1]
        for action in made[-1]._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()

    return parsers


@pytest.mark.parametrize("command", COMMANDS)
def test_version(command, capsys):
    assert main_of(command)(["--version"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{command} {PYPROJECT['project']['version']}\n"
    assert printed.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument(command, parsers):
    unexplained = {
        f"{parser.prog} {'/'.join(action.option_strings) or action.metavar}"
        for parser in parsers(command)
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    }
    assert unexplained == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example(command, parsers):
    for parser in parsers(command):
        assert parser.epilog is not None and parser.epilog.startswith(f"example:\n  {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_means_the_same_in_every_command(command, parsers):
    found = {
        (name, action.default, action.nargs, action.const)
        for parser in parsers(command)
        for action in parser._actions
        for name in action.option_strings
        if name in ("--device", "--json")
    }
    assert found <= {("--device", "auto", None, None), ("--json", None, "?", "-")}
