"""Lets prompts with a common start share its keys and values in one session."""

from collections.abc import Iterable, Sequence

from dca_runtime.session import Session


class PromptCache:
    """Knows which tokens a session holds. The session must be empty, and be fed only what ``rest`` gives."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._ids: Sequence[int] = []

    def rest(self, ids: Sequence[int], others: Iterable["PromptCache"] = ()) -> Sequence[int]:
        """Cuts the session back to what it shares with ``ids``; gives the ids left to evaluate, at least one.

        others: of sessions that may run another attention; where one of them holds a longer start of
            ``ids`` that this session would give the same keys and values, that start is copied.

        Follow up with ``record`` once they, and perhaps more, have been evaluated.
        """
        shared = self._shared(ids)
        for other in others:
            theirs = min(other._shared(ids), self.session.exact_prefix(other.session))
            if theirs > shared:
                self.session.copy_prefix(other.session, theirs)
                shared = theirs
        self.session.truncate(shared)
        self._ids = ids[:shared]
        return ids[shared:]

    def record(self, ids: Sequence[int]) -> None:
        """Says what the session was fed in all; what it did not get to evaluate does not count."""
        self._ids = ids[: self.session.length]

    def _shared(self, ids: Sequence[int]) -> int:
        """Tokens at the start of ``ids`` that the session holds; the last id is always left."""
        return min(_common_prefix(self._ids, ids), len(ids) - 1)


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
