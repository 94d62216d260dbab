"""What the commands share: the argument parser, exit codes, one-line errors, progress, tables, JSON.

A command is a parser and a body::

    def main(argv: list[str] | None = None) -> int:
        parser = command_parser("dca-thing", "Does the thing.", example="dca-thing model.gguf")
        parser.add_argument("model", type=Path)
        return run(parser, body, argv)

    def body(arguments: argparse.Namespace) -> int:
        with progress_bar("reading") as update:
            thing(arguments.model, progress=update)
        return EXIT_OK
"""

import argparse
import contextlib
import errno
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

from dca_export import strict_json
from dca_export.cli._completion import SHELLS, PrintCompletion
from dca_export.cli._streams import discard_errors, discard_output, prepare_streams
from dca_export.errors import InputError
from dca_export.export.output_file import write_file

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
MAX_MESSAGE = 2000  # characters
EXIT_INTERRUPTED = 128 + signal.SIGINT  # what a shell reports for a program that Ctrl-C ended


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like every other error of the commands."""

    last: str | None = None  # an optional positional argument that may also stand behind options

    def parse_known_args(self, *arguments: Any, **options: Any) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        # Where options stand between two positional arguments, argparse takes an optional second one for
        # left out before it comes to it.
        namespace, rest = super().parse_known_args(*arguments, **options)
        if self.last is not None and rest and not rest[0].startswith("-"):
            if getattr(namespace, self.last) is None:
                setattr(namespace, self.last, rest.pop(0))
        return namespace, rest

    def _print_message(self, message: str, file: TextIO | None = None) -> None:  # type: ignore[override]
        if file is sys.stderr:
            _complain(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """--version: looks the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from dca_runtime import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit(EXIT_OK)


def command_parser(
    prog: str, description: str, example: str, last: str | None = None
) -> argparse.ArgumentParser:
    """The command ``prog``'s parser, with --version and --print-completion.

    Help ends with ``example`` (one command a line).
    last: the optional positional argument, if there is one that may also stand behind options.
    """
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.last = last
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print what makes the shell complete this command's arguments (docs/install.md), and exit",
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses ``argv`` (default: the process's), runs ``body`` on the result, returns the exit code.

    InputError, DcaError, OSError, MemoryError and Ctrl-C become one line on stderr; any other
    exception is a bug of ours and keeps its traceback.
    """
    from dca_runtime.errors import DcaError

    prepare_streams()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    try:
        with _warnings_in_one_line(parser.prog):
            code = body(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()  # the reader (head, less) has what it wanted
        return EXIT_OK
    except KeyboardInterrupt:
        return _fail(parser.prog, "interrupted", EXIT_INTERRUPTED)
    except (InputError, DcaError) as error:
        typed = sys.argv[1:] if argv is None else argv
        return _fail(parser.prog, _with_option(str(error), typed), EXIT_BAD_INPUT)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            discard_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(parser.prog, f"{where}{error.strerror or error}", EXIT_BAD_INPUT)
    except MemoryError as error:
        more = f" ({error})" if str(error) else ""
        return _fail(parser.prog, f"not enough memory{more}", EXIT_BAD_INPUT)


@contextlib.contextmanager
def _warnings_in_one_line(prog: str) -> Iterator[None]:
    """DcaWarning on stderr as one line, like an error; each once."""
    from dca_runtime.errors import DcaWarning

    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, DcaWarning):
            print(f"{prog}: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            shown(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", DcaWarning)
        warnings.showwarning = show
        yield


def _with_option(message: str, argv: Sequence[str]) -> str:
    """A message about a value by its name in Python, after the option that it was typed with, if it was."""
    name = re.match(r"[a-z_]+(?= (?:must|is) )", message)
    if name is None:
        return message
    option = "--" + name[0].replace("_", "-")
    typed = any(word == option or word.startswith(f"{option}=") for word in argv)
    return f"argument {option}: {message}" if typed else message


def _fail(prog: str, message: str, code: int) -> int:
    # Nothing that a terminal acts on; bytes of a path that are no UTF-8 are escaped where they are written.
    kept = (
        character if character.isprintable() or "\ud800" <= character <= "\udfff" else " "
        for character in message
    )
    shown = "".join(kept)
    shown = " ".join(shown.split())
    if len(shown) > MAX_MESSAGE:  # a name of a stranger's file may be as long as the file
        shown = f"{shown[: MAX_MESSAGE // 2]} … {shown[-MAX_MESSAGE // 2 :]}"
    _complain(f"{prog}: {shown}\n")
    return code


def _complain(text: str) -> None:
    """On stderr; where that cannot be written, the exit code says it alone."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard_errors()


# Argument types: argparse shows the message of an ArgumentTypeError as it stands.


LARGEST = 2**31 - 1  # token positions are 32-bit integers
MOST_TIMES = 10_000  # that anything is repeated: each is remembered


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def count(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def times(text: str) -> int:
    """How often something is done."""
    return _integer(text, 1, MOST_TIMES)


def seed(text: str) -> int:
    """Of random numbers: an integer of 64 bits, as the library has it."""
    return _integer(text, 0, 2**64 - 1)


def finite_float(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def positive_ints(text: str) -> list[int]:
    """Comma-separated integers of at least 1."""
    return [_integer(part, 1) for part in text.split(",")]


def counts(text: str) -> list[int]:
    """Comma-separated integers of at least 0."""
    return [_integer(part, 0) for part in text.split(",")]


_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def disk_size(text: str) -> int:
    """Bytes, with K, M, G or T for powers of 1,000: 20G."""
    digits = text.upper().removesuffix("B")
    number, suffix = (digits[:-1], digits[-1]) if digits[-1:].isalpha() else (digits, "")
    try:
        value = float(number) * _SUFFIXES[suffix]
    except (ValueError, KeyError):
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise argparse.ArgumentTypeError(f"expected a size like 500M or 20G, got {text!r}")
    return int(value)


def _integer(text: str, least: int, most: int = LARGEST) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
    if value > most:
        raise argparse.ArgumentTypeError(f"expected an integer of at most {most}, got {text!r}")
    return value


# Progress.


class Update(Protocol):
    """Reports work done and work in all; a new ``description`` replaces the bar's."""

    def __call__(self, done: float, total: float, description: str | None = None) -> None: ...


@contextlib.contextmanager
def progress_bar(description: str, unit: str | None = None) -> Iterator[Update]:
    """A progress bar on stderr while the block runs; nothing at all where stderr is not a terminal.

    unit: what is counted, to show how many a second; None: no rate.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, description=None: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} {unit}/s")

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        *([] if unit is None else [Rate()]),
        TimeRemainingColumn(),
    ]
    # What is printed meanwhile goes above the bar on a terminal, and else where it would go without one.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(description, total=None)

        def update(done: float, total: float, description: str | None = None) -> None:
            bar.update(task, completed=done, total=total)
            if description is not None:
                bar.update(task, description=description)

        yield update


def note(message: str) -> None:
    """One line for a person: on stderr if that is a terminal, otherwise nowhere."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)


# Results.

WIDTH_IN_A_PIPE = 200  # columns; a pipe has no width and a table must not be cut


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    file: TextIO | None = None,
) -> None:
    """Prints a table on stdout (or ``file``): the first column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = file or sys.stdout
    console = Console(file=file, width=None if file.isatty() else WIDTH_IN_A_PIPE)
    if title is not None:
        console.print(Text(title), soft_wrap=True)  # as the table's own it would be broken to its width
    for shown in _fitting(columns, rows, console.width):
        table = Table(box=box.SIMPLE_HEAD)
        for index in shown:
            table.add_column(
                Text(columns[index]), justify="left" if index == 0 else "right", no_wrap=index > 0
            )
        for row in rows:
            table.add_row(*(Text(row[index]) for index in shown))
        console.print(table)


def row_printer(columns: Mapping[str, int], title: str | None = None) -> Callable[[Sequence[str]], None]:
    """Prints the heading of a table on stdout, and then each row that the result is called with, at once: for
    rows that are long in coming. ``columns`` gives their widths; a longer cell pushes the others along."""
    file = sys.stdout

    def show(cells: Sequence[str]) -> None:
        line = " ".join(cell.rjust(width) for cell, width in zip(cells, columns.values(), strict=True))
        print(line.rstrip(), file=file, flush=True)

    if title is not None:
        print(title, file=file)
    show(list(columns))
    return show


_PADDING = 3  # columns between two of a table
_NAMES_SHARE = 2  # the names of the rows may take the second part of the width; longer ones are broken


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of a table, in groups that fit `width` with the first column before each: a figure that is
    cut is no figure."""
    widths = [max(map(len, [name, *(row[index] for row in rows)])) for index, name in enumerate(columns)]
    names = (
        min(widths[0], width // _NAMES_SHARE) if sum(widths) + _PADDING * len(widths) > width else widths[0]
    )
    groups: list[list[int]] = [[0]]
    left = width - names - _PADDING
    for index in range(1, len(columns)):
        if widths[index] + _PADDING > left and len(groups[-1]) > 1:
            groups.append([0])
            left = width - names - _PADDING
        groups[-1].append(index)
        left -= widths[index] + _PADDING
    return groups


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
