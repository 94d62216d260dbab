"""What people look at while a command runs and when it has ended: progress, notes, tables."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TextIO


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
