"""--print-completion: a command's arguments, for a shell to complete."""

import argparse
from pathlib import Path
from typing import NoReturn

SHELLS = ("bash", "zsh", "fish", "tcsh")
# Placeholders in help that stand for a file or a folder; an argument of type Path does in any case.
_FILES = ("FILE", "PATH", "MODEL", "MODEL.gguf", "OUT", "OUT.gguf", "RESULTS", "ORIGIN")
_FOLDERS = ("DIR", "DIR[=SCALE]")


class PrintCompletion(argparse.Action):
    """Prints a script that completes the command's options, choices and files, and ends the command."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, *_: object
    ) -> NoReturn:
        import shtab

        _mark_paths(parser, shtab.FILE, shtab.DIRECTORY)
        print(shtab.complete(parser, str(values)))
        parser.exit(0)


def _mark_paths(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Tells shtab which arguments are files or folders, also of subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                _mark_paths(subcommand, file, folder)
        elif action.metavar in _FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path:
            action.complete = file  # type: ignore[attr-defined]
