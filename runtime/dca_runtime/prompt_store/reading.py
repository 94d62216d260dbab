"""Reads a prompt into a session through a store: loads what is known, evaluates the rest and keeps it."""

import time
from collections.abc import Callable, Sequence

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store.speed import Sample
from dca_runtime.prompt_store.store import Prompts
from dca_runtime.session import Session

# A piece is evaluated, then its pages are written while the next one is: long enough that the cuts cost
# nothing, short enough that an interrupted reading loses little.
_STEP = 512  # pieces end at multiples of it, as the library's own steps on the CPU do
_SECONDS = 2.0
_MOST_STEPS = 16


def read_prompt(
    session: Session,
    prompts: Prompts,
    ids: Sequence[int],
    progress: Callable[[int], None] = lambda length: None,
) -> int:
    """Appends what is missing of ``ids``, which begin with what the session holds, up to the last whole page
    and never the last token; how many tokens came from the store.

    progress: called with the session's length now and then. What was read before an exception is kept.
    """
    loaded = prompts.load_into(session, ids, progress)
    last = (len(ids) - 1) // PAGE_TOKENS * PAGE_TOKENS
    steps = 1
    try:
        while (start := session.length) < last:
            stop = min((start // _STEP + steps) * _STEP, last)
            began = time.perf_counter()
            session.append(ids[start:stop])
            seconds = time.perf_counter() - began
            prompts.read_in(Sample(start, stop, seconds))
            prompts.save(session)
            progress(stop)
            steps = min(max(int(steps * _SECONDS / max(seconds, 1e-3)), 1), _MOST_STEPS, 2 * steps)
    finally:
        prompts.finish_reading()
    return loaded
