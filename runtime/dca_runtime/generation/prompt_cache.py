"""Lets prompts with a common start share its keys and values in one session."""

from collections.abc import Iterable, Sequence

import numpy as np

from dca_runtime.session import Session


class PromptCache:
    """Cuts a session back to what the next prompt shares with the tokens it holds."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def rest(self, ids: Sequence[int], others: Iterable["PromptCache"] = ()) -> Sequence[int]:
        """Cuts the session back to what it shares with ``ids``; gives the ids left to evaluate, at least one.

        others: of sessions that may run another attention; where one of them holds a longer start of
            ``ids`` that this session would give the same keys and values, that start is copied.
        """
        shared = self.shared(ids)
        for other in others:
            theirs = min(other.shared(ids), self.session.exact_prefix(other.session))
            if theirs > shared:
                self.session.copy_prefix(other.session, theirs)
                shared = theirs
        self.session.truncate(shared)
        return ids[shared:]

    def shared(self, ids: Sequence[int]) -> int:
        """Tokens at the start of ``ids`` that the session holds; the last id is always left."""
        held = self.session.ids
        count = min(len(held), len(ids) - 1)
        different = np.flatnonzero(held[:count] != np.asarray(ids[:count], np.int64))
        return int(different[0]) if len(different) else max(count, 0)
