"""The one place through which packages in Rust are called (tokenizers, llguidance): whatever goes wrong in
one becomes a DcaError.

They raise bare Exception, OverflowError for ids, and, where their code panics, an exception that is no
Exception at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dca_runtime.errors import DcaError, Status

_SHOWN = 200  # characters of a reason: the package quotes whole files


@contextmanager
def guarded(what: str, status: Status = Status.FORMAT) -> Iterator[None]:
    """Runs calls into the package; a failure becomes a DcaError "``what`` (the reason)"."""
    try:
        yield
    except (DcaError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise DcaError(f"{what} (out of memory)", Status.MEMORY) from error
    except BaseException as error:  # pyo3_runtime.PanicException is a BaseException
        raise DcaError(f"{what} ({one_line(error)})", status) from error


def one_line(error: object) -> str:
    """A reason as it fits into a message: one line, not too long, nothing that a terminal acts on."""
    text = "".join(character if character.isprintable() else " " for character in str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
