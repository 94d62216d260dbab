"""What was read is found again: the longest common start in whole pages, whoever read it."""

import tempfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended import PAGE, Pretended, found, keep, prompt

from dca_runtime import PromptStore
from dca_runtime.prompt_store import chain
from dca_runtime.prompt_store.page_file import PageFile


def common_pages(one, other) -> int:
    """Oracle: whole pages of tokens that two prompts begin with."""
    count = 0
    while one[count * PAGE : (count + 1) * PAGE] == other[count * PAGE : (count + 1) * PAGE]:
        if len(one) < (count + 1) * PAGE or len(other) < (count + 1) * PAGE:
            break
        count += 1
    return count


def test_a_prompt_is_found_by_another_process(store):
    ids = prompt(1, 5.5)
    keep(store, ids)
    assert found(store, ids) == 5 * PAGE


def test_the_last_token_is_always_left_to_evaluate(store):
    ids = prompt(1, 3)
    keep(store, ids)
    assert found(store, ids) == 2 * PAGE
    assert found(store, [*ids, 1]) == 3 * PAGE


def test_an_edit_is_read_again_from_its_page_on(store):
    ids = prompt(1, 6)
    keep(store, ids)
    edited = [*ids[: 3 * PAGE + 7], 5000, *ids[3 * PAGE + 8 :]]
    assert found(store, edited) == 3 * PAGE


def test_only_new_pages_are_written(store):
    ids = prompt(1, 6)
    keep(store, ids[: 4 * PAGE])
    sequence = Pretended(ids)
    with store.prompts(sequence) as prompts:
        prompts.save(sequence)
        prompts.save(sequence)
        prompts.flush()
        assert prompts.written == 2
    assert found(store, [*ids, 1]) == 6 * PAGE


def test_a_growing_conversation_goes_on_in_its_file(store):
    sequence = Pretended()
    with store.prompts(sequence) as prompts:
        for turn in range(6):
            sequence.append(prompt(turn, 1.3))
            prompts.save(sequence)
            prompts.flush()
        assert len(list(prompts.folder.glob("*.pages"))) == 1
    assert found(store, [*sequence.tokens, 1]) == len(sequence.tokens) // PAGE * PAGE


def test_prompts_that_are_read_in_turns_have_a_file_each(store):
    sequences = [Pretended() for _ in range(3)]
    with store.prompts(sequences[0]) as prompts:
        for piece in range(5):
            for number, sequence in enumerate(sequences):
                sequence.append(prompt(10 * number + piece, 2))
                prompts.save(sequence)
        prompts.flush()
        assert len(list(prompts.folder.glob("*.pages"))) == 3
    for sequence in sequences:
        assert found(store, [*sequence.tokens, 1]) == 10 * PAGE


def test_many_prompts_at_once_are_all_found(store):
    sequences = [Pretended() for _ in range(20)]
    with store.prompts(sequences[0]) as prompts:
        for piece in range(3):
            for number, sequence in enumerate(sequences):
                sequence.append(prompt(10 * number + piece, 1))
                prompts.save(sequence)
    for sequence in sequences:
        assert found(store, [*sequence.tokens, 1]) == 3 * PAGE


def test_another_setup_finds_nothing(store):
    keep(store, prompt(1, 3))
    assert found(store, prompt(1, 3), name="another") == 0


def test_what_a_sequence_holds_is_kept_where_no_more_is_stored(store):
    ids = prompt(1, 4)
    keep(store, ids[: 2 * PAGE])
    sequence = Pretended(ids[: 3 * PAGE + 5])
    with store.prompts(sequence) as prompts:
        assert prompts.load_into(sequence, ids) == 0
    assert sequence.tokens == ids[: 3 * PAGE + 5]


def test_loading_goes_on_from_the_page_that_a_sequence_holds(store):
    ids = prompt(1, 5)
    keep(store, ids)
    sequence = Pretended(ids[: PAGE + 5])
    with store.prompts(sequence) as prompts:
        assert prompts.load_into(sequence, ids) == 3 * PAGE
    assert sequence.tokens == ids[: 4 * PAGE] and sequence.appended == 3


def test_without_waiting_it_ends_as_well(store):
    """As a server steps it, between the steps of others."""
    ids = prompt(1, 40)
    keep(store, ids)
    sequence = Pretended()
    with store.prompts(sequence) as prompts, prompts.loading(sequence, ids) as loading:
        while not loading.done:
            loading.step(sequence, wait=False)
    assert sequence.length == 39 * PAGE


def test_saving_without_waiting_says_what_is_left(store, monkeypatch):
    sequence, append = Pretended(prompt(1, 30)), PageFile.append
    monkeypatch.setattr(PageFile, "append", lambda *arguments: time.sleep(0.05) or append(*arguments))
    with store.prompts(sequence) as prompts:
        rounds = 1
        while not prompts.save(sequence, wait=False):
            rounds += 1
            prompts.flush()
        prompts.flush()
        assert rounds > 1 and prompts.written == 30


def test_names_depend_on_the_setup_and_on_every_token_before():
    ids = prompt(1, 3)
    names = chain.page_hashes(chain.root("a\n"), ids)
    assert len(set(names)) == 3
    assert names[:2] == chain.page_hashes(chain.root("a\n"), ids[: 2 * PAGE + 100])
    assert not set(names) & set(chain.page_hashes(chain.root("b\n"), ids))
    changed = chain.page_hashes(chain.root("a\n"), [ids[0] + 1, *ids[1:]])
    assert not set(names) & set(changed)
    assert names == chain.page_hashes(chain.root("a\n"), np.array(ids, np.int64))


# Few different tokens, in long stretches, so that prompts share starts of all lengths.
stretches = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200)), max_size=6)
prompts_drawn = st.lists(stretches.map(lambda runs: [t for t, n in runs for _ in range(n)]), max_size=6)


@given(stored=prompts_drawn, asked=prompts_drawn)
@settings(max_examples=60, deadline=None)
def test_any_prompts_stored_are_found_as_far_as_one_of_them_goes(stored, asked):
    with tempfile.TemporaryDirectory() as folder:
        store = PromptStore(f"{folder}/store", limit=10**8, warn=pytest.fail)
        for ids in stored:
            keep(store, ids)
        for ids in asked + stored:
            longest = max((common_pages(ids[: max(len(ids) - 1, 0)], other) for other in stored), default=0)
            assert found(store, ids) == longest * PAGE
