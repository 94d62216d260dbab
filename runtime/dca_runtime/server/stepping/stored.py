"""The prompt store below the tree: little work a step, and whatever goes wrong with it is a line in the log.

The threads of the store read and write files; the thread that steps the engine only copies pages.
"""

import time
from collections import OrderedDict
from typing import cast

from dca_runtime.engine import TokenSequence
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store import Prompts
from dca_runtime.prompt_store.loading import chunk_pages
from dca_runtime.prompt_store.speed import Sample
from dca_runtime.server.incoming import Incoming, warn
from dca_runtime.server.requests import Job
from dca_runtime.server.stepping.prefix_tree import PrefixTree

MOST_LOADING = 2  # prompts at once; each has some 64 MB that were read ahead
_MOST_UNSAVED = 256  # prompts; of more the oldest are not kept
_SPEED_TOKENS = 4096  # that are read before their speed is kept
_LAST_SECONDS = 5.0  # for what is not written yet when the server stops
_LOOK_SECONDS = 0.005  # between looks at buffers, when the server stops


class Stored:
    """A store as a server uses it. ``find`` is for any thread, the rest for the one that steps."""

    def __init__(self, prompts: Prompts) -> None:
        self.most_pages = chunk_pages(prompts.page_bytes)  # that one step of loading appends at most
        self._prompts = prompts
        self._timed = 0  # tokens whose reading was timed since the speed was kept
        self._unsaved: OrderedDict[Job, list[bytes]] = OrderedDict()  # the pages of each by their keys

    @property
    def unsaved(self) -> bool:
        """Whether pages are to be saved."""
        return bool(self._unsaved)

    def find(self, ids: list[int]) -> int:
        """How many tokens at the start of a prompt are stored; waits for the disk."""
        try:
            if self._timed >= _SPEED_TOKENS:
                self._timed = 0
                self._prompts.finish_reading()
            return self._prompts.find(ids)
        except Exception as error:
            warn(f"the prompt store: looking for a prompt failed: {error}")
            return 0

    def read_in(self, start: int, stop: int, seconds: float) -> None:
        """Reading those tokens of a prompt took so long, with none of another in the step.

        A disk that is slower than that is left, as the store knows from the speed it keeps.
        """
        self._prompts.read_in(Sample(start, stop, seconds))
        self._timed += stop - start

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

    def leave_unsaved(self) -> None:
        """What is not saved yet is not kept."""
        self._unsaved.clear()

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
            self._prompts.finish_reading()
            self._prompts.close()
        except Exception as error:
            warn(f"the prompt store: {error}")
