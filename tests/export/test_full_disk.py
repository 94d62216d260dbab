"""Disks that are full, have no inodes or may not be written: one line, nothing half there, nothing lost."""

import builtins
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf.gguf_writer
import pytest
from tiny_hf import write_tiny_model

import dca_export.export.write as write_module
from dca_export.cli.export import main
from dca_export.evaluate import results
from dca_export.export.output_file import write_file


class FullAfter:
    """A file of a disk that is full at the n-th write (from 1 on), and stays so."""

    def __init__(self, file, left: list[int]) -> None:
        self._file, self._left = file, left

    def write(self, data) -> int:
        self._left[0] -= 1
        if self._left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


@pytest.fixture
def checkpoint(tmp_path):
    write_tiny_model(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def said_in_one_line(capsys, words: str) -> None:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0], lines


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("copies", [False, True])
def test_every_write_of_an_export(tmp_path, checkpoint, monkeypatch, capsys, there, copies):
    source, folder = checkpoint, tmp_path / "out"
    folder.mkdir()
    output = folder / "model.gguf"
    if copies:
        source = tmp_path / "source.gguf"
        assert main([str(checkpoint), str(source)]) == 0
    assert main([str(source), str(output)]) == 0
    whole = output.read_bytes()
    left = [0]

    def full(path, mode="r", *more, **options):
        file = builtins.open(path, mode, *more, **options)
        return FullAfter(file, left) if "w" in mode else file

    monkeypatch.setattr(write_module, "open", full, raising=False)
    monkeypatch.setattr(gguf.gguf_writer, "open", full, raising=False)
    stride = 1 if copies else 7  # of the many small ones of a header
    for n in itertools.count(1, stride):
        output.unlink(missing_ok=True)
        if there:
            output.write_bytes(b"before")
        capsys.readouterr()
        left[0] = n
        code = main([str(source), str(output), "--force"])
        if left[0] > 0:
            assert code == 0
            break
        assert code == 2
        said_in_one_line(capsys, "No space left on device")
        assert [path.name for path in folder.iterdir()] == (["model.gguf"] if there else [])
        assert not there or output.read_bytes() == b"before"
    assert output.read_bytes() == whole
    assert n > stride


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from dca_export.cli.export import main
sys.exit(main(sys.argv[2:]))
"""


def test_files_that_may_not_grow(tmp_path, checkpoint):
    folder = tmp_path / "out"
    folder.mkdir()
    for limit in (0, 1000, 60_000):
        command = [sys.executable, "-c", LIMITED, str(limit), str(checkpoint), str(folder / "model.gguf")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
        assert list(folder.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB and eight inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=8", "dca-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_too_small_is_seen_before_anything_is_written(small_disk, checkpoint, capsys):
    assert main([str(checkpoint), str(small_disk / "model.gguf")]) == 2
    said_in_one_line(capsys, "its file system has 0.00 GB free")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up(small_disk, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(write_module, "check_space", lambda *_: None)  # others write there meanwhile
    assert main([str(checkpoint), str(small_disk / "model.gguf")]) == 2
    said_in_one_line(capsys, "No space left on device")
    assert list(small_disk.iterdir()) == []


def test_a_report_on_a_full_disk(small_disk):
    write_file(small_disk / "report.json", b"before")
    with pytest.raises(OSError, match="No space left"):
        write_file(small_disk / "report.json", bytes(100_000))
    assert (small_disk / "report.json").read_bytes() == b"before"
    assert len(list(small_disk.iterdir())) == 1


def test_a_disk_without_inodes(small_disk, capsys):
    taken = [small_disk / str(number) for number in range(7)]
    for used in range(5, 8):  # room for two, one and none
        for path in taken[:used]:
            path.touch()
        with pytest.raises(OSError, match="No space left"):
            write_file(small_disk / "report.json", b"report")
        assert len(list(small_disk.iterdir())) == used
        for path in taken[:used]:
            path.unlink()
    write_file(small_disk / "report.json", b"report")


def test_results_go_on_after_the_disk_was_full(small_disk):
    path, filler = small_disk / "results.jsonl", small_disk / "filler"
    head = {"experiment": "passkey", "model": {}, "settings": {}}
    cells = [{"length": length} for length in range(60)]

    def measure(cell, _):
        return {"found": cell["length"], "text": "x" * 300}

    filler.write_bytes(bytes(52_000))
    with pytest.raises(OSError, match="No space left"):
        results.measure_cells(results.open_results(path, head), cells, measure, lambda *_: None)
    filler.unlink()
    kept = results.open_results(path, head).values("length")
    assert 0 < len(kept) < len(cells) and kept == list(range(len(kept)))
    results.measure_cells(results.open_results(path, head), cells, measure, lambda *_: None)
    assert results.read_results(path).values("length") == list(range(len(cells)))


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A file system that may not be written, also by root."""
    disk = tmp_path / "read-only"
    disk.mkdir()
    if os.geteuid() != 0:
        disk.chmod(0o500)
        yield disk
        disk.chmod(0o700)
        return
    command = ["mount", "-t", "tmpfs", "-o", "ro", "dca-test", str(disk)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_may_not_be_written(read_only, checkpoint, capsys):
    assert main([str(checkpoint), str(read_only / "model.gguf")]) == 2
    said_in_one_line(capsys, str(read_only))
    with pytest.raises(OSError):
        write_file(read_only / "report.json", b"report")
