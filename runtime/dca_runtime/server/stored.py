"""The prompt store below the tree: little work a step, and whatever goes wrong with it is a line in the log.

The threads of the store read and write files; the thread that steps the engine only copies pages.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from dca_runtime.engine import TokenSequence
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store import Prompts
from dca_runtime.prompt_store.loading import CHUNK_BYTES, Loading
from dca_runtime.server.prefix_tree import PrefixTree
from dca_runtime.server.requests import Job

MOST_LOADING = 2  # prompts at once; each has some 64 MB that were read ahead
_PATIENCE_SECONDS = 2.0  # without a page, then the disk is not waited for
_MOST_UNSAVED = 256  # prompts; of more the oldest are not kept
_LAST_SECONDS = 5.0  # for what is not written yet when the server stops
_LOOK_SECONDS = 0.005  # between looks at buffers, when the server stops

_log = logging.getLogger("dca_serve")


def warn(line: str) -> None:
    """What the store says goes to the log."""
    _log.warning("%s", line)


class Incoming:
    """A prompt on its way from the store into a sequence."""

    def __init__(self, loading: Loading, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = loading.done
        self._loading = loading
        self._clock = clock
        self._last = clock()  # when something came

    def step(self, sequence: TokenSequence) -> bool:
        """Appends what was read next, if it is there; False: nothing came. Never waits."""
        try:
            came = self._loading.step(sequence, wait=False)
        except Exception as error:  # the pool has no room, or what nobody thought of
            warn(f"the prompt store: loading ended: {error}")
            self.close()
            return False
        now = self._clock()
        if came:
            self._last = now
        elif not self._loading.done and now - self._last > _PATIENCE_SECONDS:
            warn(f"the prompt store: no page came within {_PATIENCE_SECONDS:g} s, so the prompt is read")
            self.close()
        self.done = self.done or self._loading.done
        return came

    def close(self) -> None:
        """Ends it; what was appended stays."""
        self._loading.close()
        self.done = True


class Stored:
    """A store as a server uses it. ``find`` is for any thread, the rest for the one that steps."""

    def __init__(self, prompts: Prompts) -> None:
        self.most_pages = max(CHUNK_BYTES // prompts.page_bytes, 1)  # that one step of loading appends
        self._prompts = prompts
        self._unsaved: OrderedDict[Job, list[bytes]] = OrderedDict()  # the pages of each by their keys

    @property
    def unsaved(self) -> bool:
        """Whether pages are to be saved."""
        return bool(self._unsaved)

    def find(self, ids: list[int]) -> int:
        """How many tokens at the start of a prompt are stored; waits for the disk."""
        try:
            return self._prompts.find(ids)
        except Exception as error:
            warn(f"the prompt store: looking for a prompt failed: {error}")
            return 0

    def incoming(self, job: Job) -> Incoming | None:
        """What is stored of the job's prompt beyond what its sequence holds; None: nothing."""
        assert job.sequence is not None
        try:
            loading = self._prompts.loading(job.sequence, job.prompt, refresh=False)
        except Exception as error:
            warn(f"the prompt store: loading failed: {error}")
            return None
        return None if loading is None else Incoming(loading)

    def to_save(self, job: Job) -> None:
        """Has the pages that the job has read saved, if their prompt may be shared."""
        pages = job.read // PAGE_TOKENS
        if job.cache_prompt and pages:
            self._unsaved[job] = job.keys[:pages]
            if len(self._unsaved) > _MOST_UNSAVED:
                self._unsaved.popitem(last=False)

    def save(self, tree: PrefixTree) -> None:
        """Copies some pages for the thread that writes: as many as it has room for, of one prompt.

        They are looked for in the tree, which may let go of them meanwhile: saving holds no pages.
        """
        if not self._unsaved:
            return
        job, keys = next(iter(self._unsaved.items()))
        entry, _ = tree.find(keys)
        try:
            whole = entry is None or self._prompts.save(cast(TokenSequence, entry.sequence), wait=False)
        except Exception as error:
            warn(f"the prompt store: saving failed: {error}")
            whole = True
        if whole:
            del self._unsaved[job]

    def close(self, tree: PrefixTree) -> None:
        """Saves what is not saved yet, if the disk is fast enough."""
        end = time.monotonic() + _LAST_SECONDS
        while self._unsaved and time.monotonic() < end:
            before = len(self._unsaved)
            self.save(tree)
            if len(self._unsaved) == before:
                time.sleep(_LOOK_SECONDS)
        try:
            self._prompts.close()
        except Exception as error:
            warn(f"the prompt store: {error}")
