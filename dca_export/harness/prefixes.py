"""What several token sequences have in common at their starts, as a tree whose stretches are read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """Tokens that come after those of the parent, and that all sequences below share."""

    parent: int | None  # index of a stretch before this one in the list
    level: int  # stretches above it
    tokens: Sequence[int]


def tree(sequences: Sequence[Sequence[int]]) -> tuple[list[Stretch], list[int | None]]:
    """The stretches, parents before children; and for each sequence the stretch at whose end it ends (None:
    an empty one)."""
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    stretches: list[Stretch] = []
    ends: list[int | None] = [None] * len(sequences)
    # First and last of some that share their tokens above, how many these are, and the stretch of the last.
    waiting: list[tuple[int, int, int, int | None]] = [(0, len(order), 0, None)] if order else []
    while waiting:
        first, last, depth, parent = waiting.pop()
        own, other = sequences[order[first]], sequences[order[last - 1]]
        shared = common(own, other)  # sorted: what both ends share, all share
        if shared > depth:
            level = 0 if parent is None else stretches[parent].level + 1
            stretches.append(Stretch(parent, level, own[depth:shared]))
            parent = len(stretches) - 1
        start = first
        while start < last and len(sequences[order[start]]) == shared:
            ends[order[start]] = parent
            start += 1
        while start < last:
            stop = start + 1
            while stop < last and sequences[order[stop]][shared] == sequences[order[start]][shared]:
                stop += 1
            waiting.append((start, stop, shared, parent))
            start = stop
    return stretches, ends


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their starts."""
    count = min(len(one), len(other))
    return next((index for index in range(count) if one[index] != other[index]), count)


def batches(
    sequences: Sequence[Sequence[int]], more: Sequence[int], most: int, room: int, page: int
) -> Iterator[list[int]]:
    """Indices of at most ``most`` sequences each that fit in a pool of ``room`` tokens together, those with
    common starts beside each other.

    more: tokens that come after each sequence. page: a pool gives room in pages of so many tokens.
    """
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    batch: list[int] = []
    used = 0
    for index in order:
        tokens = sequences[index]
        shared = common(sequences[batch[-1]], tokens) if batch else 0
        # A page is begun by the stretch that is shared, by this sequence's own, and by what follows.
        needed = len(tokens) - shared + more[index] + 3 * page
        if batch and (len(batch) == most or used + needed > room):
            yield batch
            batch, used = [], 0
            needed += shared
        batch.append(index)
        used += needed
    if batch:
        yield batch
