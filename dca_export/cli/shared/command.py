"""What every command is: an argument parser with a body, exit codes, errors of one line.

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
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from dca_export.cli.shared.completion import SHELLS, PrintCompletion
from dca_export.cli.shared.streams import discard_errors, discard_output, prepare_streams
from dca_export.errors import InputError

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
