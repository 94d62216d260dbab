"""Whatever happened to the files, what is loaded is what was saved; the rest is skipped with a line."""

import fcntl
import os
import shutil
import stat

import numpy as np
import pytest
from pretended import PAGE, PAGE_BYTES, Pretended, found, keep, prompt

from dca_runtime import DcaError, PromptStore
from dca_runtime.prompt_store import page_file, speed
from dca_runtime.prompt_store.contents import contents

IDS = prompt(1, 6)


def files_of(store) -> list:
    return sorted(store.directory.path.glob("*/*.pages"))


@pytest.fixture
def file(store):
    keep(store, IDS)
    [path] = files_of(store)
    return path


def flip(path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("page", [0, 2, 4])
def test_a_damaged_page_is_skipped_said_once_and_written_again(store, lines, file, page):
    flip(file, page_file.HEADER_BYTES + page * PAGE_BYTES + 17)
    assert found(store, IDS) <= page * PAGE
    assert len(lines) == 1 and str(file) in lines[0] and f"page {page} " in lines[0]
    keep(store, IDS)
    assert found(store, [*IDS, 1]) == 6 * PAGE
    assert len(lines) == 1


@pytest.mark.parametrize("at", [0, 9, 20, 50, 90])
def test_a_damaged_header_is_skipped_with_a_line(store, lines, file, at):
    flip(file, at)
    assert found(store, IDS) == 0
    assert len(lines) == 1 and str(file) in lines[0]
    keep(store, IDS)
    assert found(store, [*IDS, 1]) == 6 * PAGE


def test_no_flipped_byte_anywhere_gives_a_wrong_page(store, lines, file):
    whole = file.read_bytes()
    spots = np.random.default_rng(0).integers(0, len(whole), 60).tolist() + list(range(104, 500, 7))
    for at in spots:
        for path in files_of(store):
            path.unlink()
        file.write_bytes(whole)
        flip(file, at)
        found(store, IDS)  # checks every page it loads


@pytest.mark.parametrize("cut", [1, PAGE_BYTES, 3 * PAGE_BYTES + 1, 5 * PAGE_BYTES + 4000])
def test_a_file_cut_short_gives_its_whole_pages(store, lines, file, cut):
    os.truncate(file, file.stat().st_size - cut)
    assert found(store, [*IDS, 1]) == max(6 - -(-cut // PAGE_BYTES), 0) * PAGE


def test_what_a_killed_writer_left_behind_the_last_page_is_cut_off(store, lines, file):
    whole = file.stat().st_size
    with open(file, "ab") as tail:
        tail.write(b"x" * 100)
    assert found(store, [*IDS, 1]) == 6 * PAGE
    assert file.stat().st_size == whole and lines == []


def test_a_file_without_a_page_is_removed(store, lines, file):
    os.truncate(file, page_file.HEADER_BYTES)
    (file.parent / "0123456789abcdef.pages").touch()
    assert found(store, IDS) == 0
    assert files_of(store) == [] and lines == []


def test_a_file_that_is_being_written_is_left_alone(store, tmp_path):
    keep(store, IDS[:PAGE])
    folder = files_of(store)[0].parent
    writing = page_file.PageFile(folder, b"r" * 32, b"p" * 32, PAGE_BYTES, 4)
    assert found(store, IDS) == PAGE
    assert writing.path.exists()
    writing.close()
    assert not writing.path.exists()


def test_pages_of_another_setup_in_the_folder_are_skipped_with_a_line(store, lines, file):
    keep(store, IDS, name="another")
    [other] = set(files_of(store)) - {file}
    shutil.copy(other, file)
    assert found(store, IDS) == 0
    assert len(lines) == 1 and "another setup" in lines[0]


def test_links_and_pipes_are_not_followed(store, lines, file, tmp_path):
    moved = tmp_path / "elsewhere"
    file.rename(moved)
    file.symlink_to(moved)
    os.mkfifo(file.with_name("pipe.pages"))
    assert found(store, IDS) == 0
    assert len(lines) == 2


def test_other_files_are_left_alone(store, lines, file):
    (file.parent / "notes.txt").write_text("mine")
    assert found(store, [*IDS, 1]) == 6 * PAGE
    assert (file.parent / "notes.txt").read_text() == "mine"


def test_everything_is_its_owners_alone(store, file):
    old = os.umask(0)
    try:
        keep(store, prompt(2, 2))
    finally:
        os.umask(old)
    for path in [store.directory.path, *store.directory.path.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_store_that_others_may_write_to_is_refused(store, tmp_path):
    store.directory.path.chmod(0o777)
    with pytest.raises(DcaError, match="others may write"):
        PromptStore(tmp_path / "store")


def test_a_store_that_others_may_read_becomes_its_owners(store, tmp_path):
    store.directory.path.chmod(0o755)
    PromptStore(tmp_path / "store")
    assert stat.S_IMODE(store.directory.path.stat().st_mode) == 0o700


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(DcaError, match="something else"):
        PromptStore(tmp_path)


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "store").touch()
    with pytest.raises(DcaError, match="no prompt store can be here"):
        PromptStore(tmp_path / "store")


def test_damaged_settings_are_made_again(store, tmp_path):
    (store.directory.path / "store.json").write_text("{")
    assert PromptStore(tmp_path / "store").directory.limit > 0
    assert PromptStore(tmp_path / "store", limit=77).directory.limit == 77
    assert PromptStore(tmp_path / "store").directory.limit == 77


def test_a_full_disk_loses_nothing_that_is_whole(store, lines, monkeypatch):
    real, left = os.pwrite, [page_file.HEADER_BYTES + 3 * (PAGE_BYTES + 48) + 100]

    def pwrite(descriptor, data, offset):
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        data = bytes(data)[: left[0]]
        left[0] -= len(data)
        return real(descriptor, data, offset)

    monkeypatch.setattr("os.pwrite", pwrite)
    keep(store, IDS)
    monkeypatch.undo()
    assert found(store, IDS) == 3 * PAGE
    assert len(lines) == 1 and "No space left" in lines[0]
    [path] = files_of(store)
    assert path.stat().st_size == page_file.HEADER_BYTES + 3 * PAGE_BYTES


def test_a_page_that_is_evicted_while_it_is_loaded_ends_the_loading(store, file, monkeypatch):
    sequence = Pretended()
    with store.prompts(sequence) as prompts:
        assert prompts.find(IDS) == 5 * PAGE
        monkeypatch.setattr(prompts._index, "refresh", file.unlink)
        assert prompts.load_into(sequence, IDS) == 0
    assert sequence.length == 0


def test_a_page_that_is_gone_from_the_middle_ends_what_is_found(store):
    """Two files, of which the first is evicted while the second stays: nothing may move up."""
    keep(store, IDS[: 2 * PAGE])
    [first] = files_of(store)
    keep(store, IDS)
    first.unlink()
    assert found(store, IDS) == 0
    with store.prompts(Pretended()) as prompts:
        keep(store, IDS[:PAGE])
        assert prompts.find(IDS) == PAGE
    keep(store, IDS[: 2 * PAGE])
    assert found(store, [*IDS, 1]) == 6 * PAGE


def test_a_writer_that_fails_in_any_way_does_not_hold_up_who_saves(store, lines, monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(page_file.PageFile, "append", broken)
    keep(store, prompt(5, 40))
    assert len(lines) == 1 and "a mistake" in lines[0]
    assert files_of(store) == []


DAMAGED_JSON = [
    "",
    "{",
    "[" * 100_000,
    "[]",
    "null",
    '{"format": 1, "limit": 1e999}',
    '{"format": 1, "limit": -5}',
]
DAMAGED_JSON += ['{"format": 1, "limit": NaN}', '{"format": 1, "limit": "x"}', '{"format": 1}', "\xff"]


@pytest.mark.parametrize("text", DAMAGED_JSON)
def test_damaged_settings_are_made_new(store, file, lines, text):
    (store.directory.path / "store.json").write_text(text, "latin-1")
    told = []
    again = PromptStore(store.directory.path, tell=told.append)
    assert len(told) == 1 and again.directory.limit > 0
    assert found(again, [*IDS, 1]) == 6 * PAGE


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "7", '{"per_token": ' + "9" * 400 + ', "per_pair": 0}', '{"per_token": NaN}', "\xff"],
)
def test_a_damaged_speed_is_none(store, file, text):
    (file.parent / "speed.json").write_text(text, "latin-1")
    assert speed.load(file.parent) is None


def test_pages_that_are_said_to_go_in_a_circle_are_no_prompt(store, file):
    header = page_file.read_header(os.open(file, os.O_RDONLY))
    first, second = header.entries[:2]
    circle = page_file.PageFile(file.parent, header.root, second.name, PAGE_BYTES, 2)
    circle.append(first, bytes(PAGE_BYTES))
    circle.append(second, bytes(PAGE_BYTES))
    circle.close()
    file.unlink()
    [setup] = contents(store.directory)
    assert setup.prompts == []


@pytest.fixture
def locked(store, monkeypatch):
    """Another process holds the store's lock, and does not let go of it."""
    monkeypatch.setattr("dca_runtime.prompt_store.directory._LOCK_SECONDS", 0.1)
    descriptor = os.open(store.directory.path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_a_lock_that_is_never_let_go_of_is_not_waited_for(store, lines, locked):
    keep(store, IDS)  # waits until what can be written is
    assert len(lines) == 1 and "another process has held its lock" in lines[0]
    assert found(store, IDS) == 0
    with pytest.raises(DcaError, match="another process has held its lock"):
        PromptStore(store.directory.path, limit=10**6)
