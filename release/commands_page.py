"""Writes docs/commands.md: what every command takes, as its parser has it.

python release/commands_page.py docs/commands.md
"""

import argparse
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Commands

What `--help` of each command says, on one page (`python release/commands_page.py docs/commands.md` wrote it).
All of them exit with 0, with 1 where a check failed, with 2 after bad usage or input, and with 130 after
Ctrl-C; an error is one line on standard error.
"""
NOT_RUN = "<!-- not run: names files that are not there; the tests parse it -->"


class _Parser(Exception):
    """Carries a command's parser out of its main function."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def mains() -> Iterator[tuple[str, str]]:
    """(module, function) of each command of pyproject.toml, then of those that a command hands on to."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    installed = [place.partition(":") for place in scripts.values()]
    yield from ((module, main) for module, _, main in installed)
    for path in sorted((ROOT / "dca_export" / "cli").glob("[!_]*.py")):
        module = f"dca_export.cli.{path.stem}"
        if module not in {module for module, _, _ in installed}:
            yield module, "main"


def command_parsers() -> Iterator[argparse.ArgumentParser]:
    """The parser of each of them."""

    def carry_out(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Parser(parser)

    for module, main in mains():
        with mock.patch.object(argparse.ArgumentParser, "parse_args", carry_out):
            try:
                getattr(importlib.import_module(module), main)([])
            except _Parser as carrier:
                yield carrier.parser


def page() -> str:
    """The page in Markdown."""
    parts = [HEAD]
    for parser in command_parsers():
        parts.append(section(parser, "##"))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parts.extend(section(subcommand, "###") for subcommand in action.choices.values())
    return "\n".join(parts)


def section(parser: argparse.ArgumentParser, heading: str) -> str:
    """One command, or one subcommand."""
    lines = [f"{heading} {parser.prog}", "", parser.description or "", ""]
    example = (parser.epilog or "").removeprefix("example:\n").splitlines()
    lines += [NOT_RUN, "```sh", *(line.strip() for line in example), "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            lines += [f"*{group.title}*{f': {group.description}' if group.description else ''}", ""]
        for action in actions:
            lines += entries(parser, action)
        lines.append("")
    return "\n".join(lines)


def entries(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """An argument's line; a line a subcommand where it stands for those."""
    if isinstance(action, argparse._SubParsersAction):
        return [f"- `{choice.dest}` {choice.help}" for choice in action._choices_actions]
    help = argparse.HelpFormatter(parser.prog)._expand_help(action).replace("[", r"\[")
    return [f"- {names(action)}: {help}"]


def names(action: argparse.Action) -> str:
    """`-n N`, `--tokens N`, or what a positional argument is called."""
    value = action.metavar or (
        f"{{{','.join(map(str, action.choices))}}}" if action.choices is not None else action.dest.upper()
    )
    if not action.option_strings:
        return f"`{value}`"
    if action.nargs == 0:
        value = ""
    elif action.nargs == "?":
        value = f" [{value}]"
    else:
        value = f" {value}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.parse_args().out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
