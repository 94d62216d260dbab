"""Where results go: JSON, and files that may not be those that are read."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dca_export import strict_json
from dca_export.errors import InputError
from dca_export.export.output_file import write_file


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json [FILE]``; the body calls ``write_json(figures, arguments.json)`` unless it is None."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the figures to FILE as JSON (- or no FILE: to standard output, instead of tables)",
    )


def write_json(value: Any, target: str) -> None:
    """Writes ``value`` to the file ``target``, or to stdout for "-". NaN and infinity become null."""
    text = strict_json.dumps(value, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_file(Path(target), text.encode())


def check_outputs(outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Path | str | None]) -> None:
    """Raises InputError, before any work, unless each output can be written without harm.

    By the names of their options, "--json"; None and "-" (standard output) are passed over. A folder must be
    there, and no output may be an input, a model's file, or the same as another output.
    """
    taken = {name: Path(path) for name, path in inputs.items() if path is not None}
    for name, given in outputs.items():
        if given is None or str(given) == "-":
            continue
        path = Path(given)
        if path.is_dir():
            raise InputError(f"{name} {path}: is a folder, expected the name of a file to write")
        if not path.parent.is_dir():
            raise InputError(f"{name} {path}: there is no folder {path.parent} to write it in")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"{name} {path}: may not be written (permissions)")
        for other, used in taken.items():
            if same_file(path, used) or (used.is_dir() and path.exists() and same_file(path.parent, used)):
                raise InputError(f"{name} {path}: would overwrite what {other} names; give another name")
        if path.is_file() and path.open("rb").read(4) == b"GGUF":
            raise InputError(f"{name} {path}: is a model; give another name")
        taken[name] = path


def same_file(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file, or would once it is there."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()
