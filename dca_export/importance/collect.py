"""Collects what flows into a model's matrices while it reads a text, with the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dca_export.errors import InputError
from dca_export.importance.file import Importance, Sums
from dca_runtime import Model

LEAST_TOKENS = 16  # of a last window that is shorter than the others

Progress = Callable[[int, int], Any]


def collect(
    model: Model, ids: Sequence[int], window: int, datasets: Sequence[str], progress: Progress
) -> Importance:
    """Sums over `ids`, read in windows of so many tokens, each from an empty context.

    Windows longer than the model was trained on are read as the file's scheme says (Dual Chunk Attention):
    the sums are then those of long contexts. `progress(done, total)` counts tokens. Raises InputError for a
    text that is too short.
    """
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    if len(windows) > 1 and len(windows[-1]) < LEAST_TOKENS:
        windows.pop()
    if len(windows[0]) < LEAST_TOKENS:
        raise InputError(f"the text has {len(ids)} tokens, expected at least {LEAST_TOKENS}")
    done, total = 0, sum(map(len, windows))
    with model.session(context=max(map(len, windows))) as session:
        session.collect_squares()
        for part in windows:
            session.truncate(0)
            session.score(part)
            done += len(part)
            progress(done, total)
        found = session.squares()
    sums = {name: Sums(squares, counts) for name, (squares, counts) in found.items()}
    return Importance(sums, tuple(datasets), len(windows), window)
