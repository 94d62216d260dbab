"""Sequences as a tree of what they share."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dca_export.harness.prefixes import batches, common, tree

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12)


def read(stretches, end):
    """The tokens that lead to a stretch's end."""
    if end is None:
        return []
    return [*read(stretches, stretches[end].parent), *stretches[end].tokens]


@given(SEQUENCES)
def test_every_sequence_is_read_along_its_path(sequences):
    stretches, ends = tree(sequences)
    assert [read(stretches, end) for end in ends] == sequences


@given(SEQUENCES)
def test_nothing_is_read_twice(sequences):
    stretches, _ = tree(sequences)
    starts = {tuple(each[:count]) for each in sequences for count in range(1, len(each) + 1)}
    assert sum(len(stretch.tokens) for stretch in stretches) == len(starts)
    assert all(stretch.parent is None or stretch.parent < index for index, stretch in enumerate(stretches))


@given(SEQUENCES, st.integers(1, 5), st.integers(0, 40))
@settings(max_examples=200)
def test_batches_hold_all_and_fit(sequences, most, room):
    page = 2
    found = list(batches(sequences, [3] * len(sequences), most, room, page))
    assert sorted(index for batch in found for index in batch) == list(range(len(sequences)))
    for batch in found:
        stretches, _ = tree([sequences[index] for index in batch])
        needed = sum(len(stretch.tokens) for stretch in stretches) + 3 * len(batch)
        assert len(batch) == 1 or (len(batch) <= most and needed <= room)


def test_common_starts():
    assert [common([1, 2, 3], other) for other in ([1, 2], [1, 3, 3], [2], [])] == [2, 1, 0, 0]
