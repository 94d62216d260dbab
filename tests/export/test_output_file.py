"""Outputs: what is refused before anything is written, and files that appear whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dca_export.errors import InputError
from dca_export.export.output_file import (
    LOCK,
    check_apart,
    check_output,
    check_report,
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


HOLDS_A_DIRECTORY = """
import sys, time
from pathlib import Path
from dca_export.export.output_file import directory_beside
with directory_beside(Path(sys.argv[1])) as directory:
    (directory / "half").write_text("half")
    print(directory, flush=True)
    time.sleep(60)
"""


def writing_process(path: Path) -> tuple[subprocess.Popen, Path]:
    """A process that is in the middle of writing `path`, and the directory it writes in."""
    command = [sys.executable, "-c", HOLDS_A_DIRECTORY, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_nothing(tmp_path, number):
    process, directory = writing_process(tmp_path / "out.gguf")
    assert directory.is_dir()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    process, directory = writing_process(tmp_path / "out.gguf")
    process.kill()
    process.communicate(timeout=30)
    assert (directory / "half").is_file()
    with directory_beside(tmp_path / "other.gguf"):
        assert not directory.exists()


def test_what_another_process_writes_in_stays(tmp_path):
    process, directory = writing_process(tmp_path / "out.gguf")
    with directory_beside(tmp_path / "out.gguf"):
        assert (directory / "half").is_file()
    process.terminate()
    process.communicate(timeout=30)


def test_a_directory_of_someone_else_stays(tmp_path):
    other = tmp_path / ".out.gguf.abcdefgh.part"
    other.mkdir()
    (other / "mine").write_text("mine")
    with directory_beside(tmp_path / "out.gguf"):
        pass
    assert (other / "mine").read_text() == "mine"


def test_handlers_of_the_program_stay(tmp_path):
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with directory_beside(tmp_path / "out"):
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_files_can_be_written_in_any_thread(tmp_path):
    thread = threading.Thread(target=write_file, args=(tmp_path / "a", b"data"))
    thread.start()
    thread.join()
    assert (tmp_path / "a").read_bytes() == b"data"


def test_a_device_stays_one():
    before = os.stat("/dev/null")
    write_file(Path("/dev/null"), b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_ino == before.st_ino


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_file(tmp_path / "pipe", b"data" * 50_000)
    reader.join()
    assert read == [b"data" * 50_000]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path, there):
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real.json"
    if there:
        real.write_text("before")
    (tmp_path / "link.json").symlink_to(real)
    write_file(tmp_path / "link.json", b"after")
    assert (tmp_path / "link.json").is_symlink()
    assert real.read_bytes() == b"after"
    assert [path.name for path in real.parent.iterdir()] == ["real.json"]


def test_an_export_goes_where_a_link_leads(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    with directory_beside(tmp_path / "link") as directory:
        (directory / "link").write_text("after")
        move_into_place({directory / "link": tmp_path / "link"}, force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


def test_a_link_to_nothing_is_no_output(tmp_path):
    (tmp_path / "link").symlink_to("absent")
    with pytest.raises(InputError, match="is a link to absent, which does not exist"):
        check_output(tmp_path / "link", force=True)


def test_a_report_is_no_other_file_of_the_command(tmp_path):
    (tmp_path / "model").write_text("")
    (tmp_path / "link").symlink_to("model")
    for path in (tmp_path / "model", tmp_path / "link", tmp_path / "." / "model"):
        with pytest.raises(InputError, match="is also read or written otherwise"):
            check_report(path, tmp_path / "model")
    check_report(tmp_path / "report", tmp_path / "model")
    check_report(Path("/dev/null"))


def test_a_file_of_the_model_under_another_name(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    os.link(tmp_path / "m" / "config.json", tmp_path / "linked.json")
    with pytest.raises(InputError, match="is part of the model that is read"):
        check_apart(tmp_path / "linked.json", tmp_path / "m")


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


def test_a_directory_that_was_left_before_it_had_a_lock_is_removed(tmp_path):
    left = tmp_path / ".other.gguf.abcdefgh.part"
    left.mkdir()
    with directory_beside(tmp_path / "out.gguf"):
        assert not left.exists()


def test_a_directory_taken_for_abandoned_before_it_has_a_lock_is_made_again(tmp_path, monkeypatch):
    real, removed = os.open, []

    def open_once_too_late(path, *arguments, **more):
        if not removed:
            removed.append(path)
            Path(path).parent.rmdir()
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", open_once_too_late)
    with directory_beside(tmp_path / "out.gguf") as directory:
        assert directory.is_dir()
    assert removed and list(tmp_path.iterdir()) == []


def test_the_lock_goes_last(tmp_path, monkeypatch):
    left = tmp_path / ".out.gguf.abcdefgh.part"
    left.mkdir()
    for name in (LOCK, "half"):
        (left / name).write_text("")
    monkeypatch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(SystemExit))  # killed in the middle
    with pytest.raises(SystemExit), directory_beside(tmp_path / "out.gguf"):
        pass
    assert (left / LOCK).exists()
    monkeypatch.undo()
    with directory_beside(tmp_path / "out.gguf"):
        assert not left.exists()
