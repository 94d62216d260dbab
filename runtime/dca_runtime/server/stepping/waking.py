"""The way of a job's pages from host memory into its sequence, while others' steps run."""

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.server.incoming import warn
from dca_runtime.server.requests import Job
from dca_runtime.server.stepping.prefix_tree import PrefixTree

_MOST = 256  # pages whose copies are started at once: a card takes some milliseconds to be told of them


def asleep(tree: PrefixTree, job: Job) -> list[int]:
    """Slots of what follows in the job's prompt, no more than are told to come at once."""
    if tree.sleepers is None or not job.cache_prompt:
        return []
    there = job.read // PAGE_TOKENS
    last = min((job.length - 1) // PAGE_TOKENS, there + _MOST)  # the last token must be evaluated in any case
    return tree.asleep(job.keys[:last], there)


def begin(job: Job, slots: list[int]) -> bool:
    """Starts the copies of what is in ``slots``; False: they cannot be had, of which the log has a line."""
    assert job.sequence is not None
    count = len(slots) * PAGE_TOKENS
    try:
        job.sequence.unpark_pages(job.next_ids(count), slots)
    except Exception as error:
        warn(f"the host cache: {error}, so a prompt is read")
        return False
    job.coming = count
    return True


def come(tree: PrefixTree, job: Job) -> int | None:
    """How many tokens have come since ``begin``; None: they are on their way, as is what a fork shares."""
    assert job.sequence is not None
    if tree.sleepers is None:
        return 0
    if not job.sequence.in_place:
        return None
    count, job.coming = job.coming, 0
    return count
