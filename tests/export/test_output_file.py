"""Outputs: what is refused before anything is written, and files that appear whole or not at all."""

import os

import pytest

from dca_export.errors import InputError
from dca_export.export.output_file import (
    check_output,
    check_space,
    directory_beside,
    move_into_place,
    write_file,
)


def test_a_new_file_is_fine(tmp_path):
    check_output(tmp_path / "out.gguf", force=False)


def test_an_existing_file_needs_force(tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(InputError, match="already exists; use --force"):
        check_output(tmp_path / "out.gguf", force=False)
    check_output(tmp_path / "out.gguf", force=True)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path, force):
    for path in (tmp_path, tmp_path / "pipe"):
        if path.name == "pipe":
            os.mkfifo(path)
        with pytest.raises(InputError, match="is not a regular file"):
            check_output(path, force)


def test_no_directory_to_write_in(tmp_path):
    with pytest.raises(InputError, match="no such directory to write out.gguf in"):
        check_output(tmp_path / "absent" / "out.gguf", force=False)


def test_space(tmp_path):
    check_space(tmp_path / "out.gguf", 1)
    with pytest.raises(InputError, match="needs 1000000000.00 GB, its file system has"):
        check_space(tmp_path / "out.gguf", 10**18)


def test_nothing_stays_behind_after_a_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), directory_beside(tmp_path / "out.gguf") as directory:
        (directory / "out.gguf").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_move_into_place(tmp_path):
    with directory_beside(tmp_path / "out.gguf") as directory:
        for name in ("a", "b"):
            (directory / name).write_text(name)
        move_into_place({directory / name: tmp_path / name for name in ("a", "b")}, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_no_file_moves_if_one_target_is_taken(tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError), directory_beside(tmp_path / "out") as directory:
        for name in ("a", "b"):
            (directory / name).write_text(name)
        move_into_place({directory / name: tmp_path / name for name in ("a", "b")}, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "mine"


def test_files_get_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with directory_beside(tmp_path / "out") as directory:
        (directory / "out").write_text("")
        move_into_place({directory / "out": tmp_path / "out"}, force=False)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_write_file_replaces_and_leaves_nothing_else(tmp_path):
    (tmp_path / "out.json").write_bytes(b"before")
    write_file(tmp_path / "out.json", b"after")
    assert (tmp_path / "out.json").read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_written_file_is_as_readable_as_any(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    write_file(tmp_path / "out.json", b"data")
    assert (tmp_path / "out.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_write_file_spares_what_is_no_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="taken: is not a regular file"):
        write_file(tmp_path / "taken", b"data")
    assert os.listdir(tmp_path) == ["taken"]
