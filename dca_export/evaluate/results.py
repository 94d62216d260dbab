"""What an experiment measured, cell by cell, in a file from which an interrupted run goes on.

The file is JSON Lines: first a header that says what was run on what, then one line a cell, written as
soon as the cell is done. A line that was cut off by the interruption is measured again. Where a run went
on with another command, device or version, a line before its cells says so.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dca_export import strict_json
from dca_export.errors import InputError
from dca_export.evaluate.contents import digest
from dca_export.evaluate.methods import parse
from dca_export.evaluate.text import printable
from dca_export.reference import borders

if TYPE_CHECKING:
    from dca_runtime import Model

Cell: TypeAlias = Mapping[str, Any]
"""What identifies one measurement: its method, length, …; JSON values."""

CellProgress: TypeAlias = Callable[[float, float], Any]
Measure: TypeAlias = Callable[[Cell, CellProgress], dict[str, Any]]

_HASHED_BYTES = 1 << 20  # of the model's file
_ADDED = ("sha256_of_pieces", "text_sha256_of_pieces")  # to identities; files of earlier versions lack them
_SITTING = ("command", "device", "versions", "started")  # of the header: what may change as a run goes on
_START = b'{"experiment": '  # of a header
_LONGEST_HEADER = 1 << 20
_IDENTITY = ("experiment", "model", "settings")  # of the header: what must agree to go on


@dataclass(frozen=True)
class Table:
    """A table for people; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Results:
    """A header, and figures by cell in the order they were measured."""

    header: dict[str, Any]
    path: Path | None = None  # None: kept in memory only
    _figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    sittings: list[dict[str, Any]] = field(default_factory=list)  # after the first, which the header tells
    _unwritten: dict[str, Any] | None = None  # this sitting, until it has measured something

    @property
    def settings(self) -> dict[str, Any]:
        """What the experiment was asked for, beyond what its cells say."""
        return self.header["settings"]

    def __contains__(self, cell: Cell) -> bool:
        return _key(cell) in self._figures

    def __getitem__(self, cell: Cell) -> dict[str, Any]:
        return self._figures[_key(cell)]

    def cells(self, **wanted: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Cells and figures, of those cells whose fields are as ``wanted``."""
        for key, figures in self._figures.items():
            cell = json.loads(key)
            if all(cell.get(name) == value for name, value in wanted.items()):
                yield cell, figures

    def values(self, name: str, **wanted: Any) -> list[Any]:
        """The different values of one field of the cells, in the order they were measured."""
        return list(dict.fromkeys(cell[name] for cell, _ in self.cells(**wanted) if name in cell))

    def label(self, method: str) -> str:
        """A method's name for people: with the file's scheme where it runs that."""
        return parse(method).label(self.header["model"].get("scheme"))

    def scheme(self, method: str) -> list[float] | None:
        """The numbers of the scheme that a method ran, the file's own where it names none."""
        parsed = parse(method)
        if parsed.border is not None:
            return list(borders.numbers(parsed.border))
        if not parsed.has_scheme:
            return None
        if parsed.scheme is None:
            return self.header["model"].get("scheme")
        return list(dataclasses.astuple(parsed.scheme))

    def part(self, **wanted: Any) -> "Results":
        """The cells whose fields are as ``wanted``, without these fields; not tied to the file."""
        cells = {
            _key({name: value for name, value in cell.items() if name not in wanted}): figures
            for cell, figures in self.cells(**wanted)
        }
        return Results(self.header, None, cells)

    def add(self, cell: Cell, figures: dict[str, Any]) -> None:
        """Takes a measured cell and writes it down."""
        self._figures[_key(cell)] = figures
        lines: list[dict[str, Any]] = [{"cell": dict(cell), "figures": figures}]
        if self._unwritten is not None:
            lines.insert(0, {"sitting": self._unwritten})
            self.sittings.append(self._unwritten)
            self._unwritten = None
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(strict_json.dumps(line) + "\n" for line in lines))


def header(
    experiment: str, model: "Model", settings: dict[str, Any], command: Sequence[str]
) -> dict[str, Any]:
    """Says what is being run.

    settings: what changes a cell's meaning without being in the cell.
    command: what the user typed, to run the same again.
    """
    path = Path(model.path)
    with path.open("rb") as file:
        first = hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()
        pieces = digest(file)  # the first MiB may be nothing but the vocabulary
    info = model.info
    return {
        "experiment": experiment,
        "model": {
            "file": printable(path.name),
            "bytes": path.stat().st_size,
            "sha256_of_first_mib": first,
            "sha256_of_pieces": pieces,
            "architecture": info.architecture,
            "context_length": info.context_length,
            "scheme": None if info.scheme is None else list(info.scheme),
        },
        "settings": settings,
        "command": [printable(word) for word in command],
        "device": info.device,
        "versions": _versions(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def open_results(path: Path | None, head: dict[str, Any]) -> Results:
    """New results, or those of an interrupted run of the same experiment, which ``path`` holds.

    Raises InputError if the file holds something else.
    """
    if path is not None and path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file, and results are read again from theirs; name another")
    if path is None or not path.exists() or _holds_nothing(path):
        results = Results(head, path)
        if path is not None:
            path.write_text(strict_json.dumps(head) + "\n", encoding="utf-8")
        return results
    results = read_results(path)
    for name in _IDENTITY:
        if not _agree(results.header.get(name), json.loads(json.dumps(head[name]))):
            raise InputError(
                f"{path}: holds results of another run (its {name} differs); name another file or delete it"
            )
    _cut_unfinished_line(path)
    this = _sitting(head)
    if not any(_same_sitting(this, other) for other in (_sitting(results.header), *results.sittings)):
        results._unwritten = this
    return results


def _agree(written: Any, now: Any) -> bool:
    """Whether both say the same, as far as a file of an earlier version says it."""
    if isinstance(written, dict) and isinstance(now, dict):
        now = {name: value for name, value in now.items() if name not in _ADDED or name in written}
    return bool(written == now)


def _holds_nothing(path: Path) -> bool:
    """Whether the file is empty, or the run that made it ended within its first line."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    begun = start.startswith(_START) or _START.startswith(start)
    return b"\n" not in start and len(start) < _LONGEST_HEADER and begun


def read_results(path: Path) -> Results:
    """Reads a results file, but for an unfinished last line; the file may be one that is being written.

    Figures that were not finite are NaN. Raises InputError if it is no results file.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        cells = {_key(line["cell"]): _with_nan(line["figures"]) for line in lines if "sitting" not in line}
        sittings = [line["sitting"] for line in lines if "sitting" in line]
        results = Results(head, path, cells, sittings)
        complete = all(name in head for name in _IDENTITY)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is not a results file of dca-eval") from error
    if not complete:
        raise InputError(f"{path}: is not a results file of dca-eval (its header lacks what was run)")
    return results


@contextlib.contextmanager
def intelligible(results: Results) -> Iterator[None]:
    """Around what makes sense of results: InputError where a file's lines are JSON and not what we write."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if results.path is None:
            raise
        what = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{results.path}: holds figures that no {results.header['experiment']} of this version writes "
            f"({what}); measure them again into another file"
        ) from error


def _cut_unfinished_line(path: Path) -> None:
    """What an interruption left of a line is measured again."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def _with_nan(value: Any) -> Any:
    """Figures as they were before they became JSON, where null stands for what is not finite."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def measure_cells(
    results: Results, cells: Sequence[Cell], measure: Measure, update: Callable[..., Any]
) -> None:
    """Measures the cells that the results lack; ``update(done, total, description)`` counts in cells."""
    missing = [cell for cell in cells if cell not in results]
    for index, cell in enumerate(missing):
        description = " ".join(str(value) for value in cell.values())
        update(index, len(missing), description)

        def within(done: float, total: float, index: int = index) -> None:
            update(index + done / max(total, 1), len(missing))

        results.add(cell, measure(cell, within))
    update(len(missing), len(missing))


def _sitting(head: dict[str, Any]) -> dict[str, Any]:
    return {name: head[name] for name in _SITTING if name in head}


def _same_sitting(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """But for the time."""
    return all(one.get(name) == other.get(name) for name in _SITTING if name != "started")


def _key(cell: Cell) -> str:
    return json.dumps(dict(cell))


def _versions() -> dict[str, str]:
    from dca_runtime import __version__, library_version

    return {"dca-export": __version__, "libdca": library_version(), "python": platform.python_version()}
