"""What a page of tokens is called: a hash of the tokens up to its end, under a setup.

Two prompts share a page's keys and values exactly where they share every token up to its end, so the name of
page i is the hash of page i's tokens after the name of page i - 1; before the first stands the setup's name.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from dca_runtime.options import PAGE_TOKENS

HASH_BYTES = 32


def root(setup: str) -> bytes:
    """The name of a setup (``Setup.text``): what the first page of any prompt follows."""
    return _hash(b"", setup.encode())


def page_hashes(root: bytes, ids: Sequence[int] | np.ndarray) -> list[bytes]:
    """The name of each whole page of ``ids``."""
    whole = len(ids) // PAGE_TOKENS * PAGE_TOKENS
    data = np.asarray(ids[:whole], np.dtype("<i4")).tobytes()
    names, parent = [], root
    for at in range(0, len(data), 4 * PAGE_TOKENS):
        parent = _hash(parent, data[at : at + 4 * PAGE_TOKENS])
        names.append(parent)
    return names


def _hash(parent: bytes, data: bytes) -> bytes:
    # A cryptographic hash: nobody finds two prompts of one name, so a name found is a prompt found.
    return hashlib.blake2b(parent + data, digest_size=HASH_BYTES, person=b"dca prompt page").digest()
