"""Small faults of a runtime or a file, of the kinds that averages over positions hide."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dca_export.gguf.file import GgufFile
from dca_export.reference.rotary import Rotary


def short_window(model: Any) -> None:
    """Sessions of `model` run DCA with a local window two tokens short of the scheme they are given."""
    make = model.session

    def session(**options: Any) -> Any:
        if options["attention"] != "plain":
            s, w, *rest = options.get("scheme") or model.info.scheme
            options |= {"attention": "dca", "scheme": (s, w - 2, *rest)}
        return make(**options)

    model.session = session


def wrong_column(model: Any, token: int, sigmas: float) -> None:
    """Sessions of `model` give one token logits that are off by so many standard deviations."""
    make = model.session

    def session(**options: Any) -> Any:
        made = make(**options)
        evaluate = made.eval

        def wrong(*arguments: Any, **named: Any) -> np.ndarray:
            logits = np.array(evaluate(*arguments, **named))
            logits[..., token] += sigmas * logits.std(axis=-1)
            return logits

        made.eval = wrong
        return made

    model.session = session


@contextmanager
def wrong_rotation(position: int):
    """One row of the reference's rotation table is the next one's, as if the runtime's were wrong."""
    right = Rotary.angles

    def angles(self: Rotary, positions: Any) -> Any:
        return right(self, positions + (positions == position).to(positions.dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rotary, "angles", angles)
        yield


def _changed(source: Path, target: Path, tensor: str, change: Callable[[np.ndarray], None]) -> Path:
    """A copy of a file with one tensor's rows of bytes (rows, bytes a row) changed."""
    shutil.copyfile(source, target)
    info = next(each for each in GgufFile(source).tensors if each.name == tensor)
    with target.open("r+b") as file:
        file.seek(info.start)
        rows = np.frombuffer(file.read(info.nbytes), np.uint8).reshape(info.shape[0], -1).copy()
        change(rows)
        file.seek(info.start)
        file.write(rows.tobytes())
    return target


def zeroed_query_row(source: Path, target: Path, tensor: str, row: int) -> Path:
    """A copy of a file with a row of zeros in a matrix."""

    def change(rows: np.ndarray) -> None:
        rows[row] = 0

    return _changed(source, target, tensor, change)


def replaced_vocabulary_row(source: Path, target: Path, token: int, by: int) -> Path:
    """A copy of a file in which one token has the embedding of another."""

    def change(rows: np.ndarray) -> None:
        rows[token] = rows[by]

    return _changed(source, target, "token_embd.weight", change)
