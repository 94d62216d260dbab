"""A sequence without a model: what a page holds is told by its tokens, so that a wrong one is noticed."""

import hashlib

import numpy as np

from dca_runtime._pages import Setup

PAGE = 128  # tokens
PAGE_BYTES = 256


def page_of(ids, number: int) -> bytes:
    """What page ``number`` of those tokens must hold: it depends on all up to its end."""
    data = np.asarray(ids[: (number + 1) * PAGE], np.int32).tobytes()
    return hashlib.shake_128(data).digest(PAGE_BYTES)


class Pretended:
    """Reads tokens at once, and fails where it is given a page that is not theirs."""

    def __init__(self, ids=(), name: str = "pretended") -> None:
        self.tokens = list(ids)
        self.appended = 0  # pages that came from outside
        self.setup = Setup(f"model {name}\n", PAGE_BYTES)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> np.ndarray:
        return np.array(self.tokens, np.int32)

    def truncate(self, length: int) -> None:
        del self.tokens[length:]

    def append(self, ids) -> None:
        self.tokens += [int(token) for token in ids]

    def read_pages(self, first: int, count: int, out) -> None:
        out[:] = np.frombuffer(
            b"".join(page_of(self.tokens, first + index) for index in range(count)), np.uint8
        )

    def append_pages(self, ids, pages) -> None:
        assert self.length % PAGE == 0 and len(ids) % PAGE == 0
        first, data = self.length // PAGE, bytes(pages)
        self.tokens += [int(token) for token in ids]
        for index in range(len(ids) // PAGE):
            wanted = page_of(self.tokens, first + index)
            assert data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] == wanted
            self.appended += 1


def prompt(seed: int, pages: float) -> list[int]:
    """Tokens of that many pages."""
    return np.random.default_rng(seed).integers(0, 1000, int(pages * PAGE)).tolist()


def keep(store, ids, name: str = "pretended") -> None:
    """Has a process read ``ids`` and end."""
    sequence = Pretended(ids, name)
    with store.prompts(sequence) as prompts:
        prompts.save(sequence)


def found(store, ids, name: str = "pretended") -> int:
    """How many tokens of ``ids`` another process finds; each page it loads is what it should be."""
    sequence = Pretended(name=name)
    with store.prompts(sequence) as prompts:
        count = prompts.find(ids)
        assert prompts.load_into(sequence, ids) == sequence.length
        assert sequence.tokens == list(ids[: sequence.length])
        assert sequence.length <= count
        return sequence.length
