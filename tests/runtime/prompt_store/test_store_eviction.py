"""A store keeps within its size: the longest unused goes first, ends of prompts before their starts."""

import os
import time

import pytest
from pretended import PAGE, PAGE_BYTES, Pretended, found, keep, prompt

from dca_runtime import PromptStore
from dca_runtime.prompt_store import eviction, page_file

FILE = page_file.HEADER_BYTES + PAGE_BYTES  # of one page
LIMIT = 8 * FILE + 7 * PAGE_BYTES


@pytest.fixture
def small(tmp_path, lines) -> PromptStore:
    """Room for eight files of a page each, of which the newest is given room for eight pages."""
    return PromptStore(tmp_path / "store", limit=LIMIT, warn=lines.append)


def used(store) -> int:
    return sum(file.size for file in eviction.stored_files(store.directory))


def test_the_longest_unused_goes_first(small, lines):
    for seed in range(8):
        keep(small, prompt(seed, 1))
    assert found(small, [*prompt(0, 1), 1]) == PAGE  # a use
    keep(small, prompt(8, 1))
    kept = [seed for seed in range(9) if found(small, [*prompt(seed, 1), 1])]
    assert kept == [0, 2, 3, 4, 5, 6, 7, 8]
    assert used(small) <= small.directory.limit and lines == []


def test_ends_of_prompts_go_before_their_starts(small):
    for length in range(1, 7):
        keep(small, prompt(1, 6)[: length * PAGE])  # a file each
    assert found(small, [*prompt(1, 6), 1]) == 6 * PAGE
    for seed in range(2, 6):
        keep(small, prompt(seed, 1))
    assert found(small, [*prompt(1, 6), 1]) == 4 * PAGE


def test_of_a_prompt_larger_than_the_store_the_start_is_kept(small, lines):
    keep(small, prompt(1, 200))
    assert found(small, prompt(1, 200)) >= 40 * PAGE
    assert used(small) <= small.directory.limit
    assert len(lines) == 1 and "--cache-disk" in lines[0]


def test_a_file_that_is_written_to_is_not_removed(small):
    sequence = Pretended(prompt(1, 1))
    with small.prompts(sequence) as prompts:
        prompts.save(sequence)
        prompts.flush()
        [file] = eviction.stored_files(small.directory)
        assert not eviction.remove(file.path)
    assert eviction.remove(file.path)


def test_size_is_kept_from_process_to_process(small, tmp_path):
    assert PromptStore(tmp_path / "store").directory.limit == LIMIT


def test_a_new_store_takes_a_tenth_of_the_free_disk_and_says_so_once(tmp_path):
    said = []
    store = PromptStore(tmp_path / "new", tell=said.append)
    free = os.statvfs(tmp_path)
    assert store.directory.limit == pytest.approx(free.f_bavail * free.f_frsize / 10, rel=0.05)
    PromptStore(tmp_path / "new", tell=said.append)
    assert len(said) == 1 and "tenth" in said[0]


def test_touching_keeps_the_order_of_a_prompt(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    before = time.time_ns()
    eviction.touch(paths)
    times = [path.stat().st_mtime_ns for path in paths]
    assert times == sorted(times, reverse=True) and times[0] >= before


def test_forgetting_removes_a_prompt_from_a_token_on(small):
    ids = prompt(1, 6)
    keep(small, ids)
    with small.prompts(Pretended()) as prompts:
        prompts.forget(ids, kept=2 * PAGE + 5)
        assert prompts.find(ids) == 2 * PAGE
    assert used(small) <= 2 * FILE
