"""An archive is the same bytes from the same files, whenever and by whom they were written."""

import os
import sys
from pathlib import Path

import pytest

RELEASE = Path(__file__).parents[2] / "release"


@pytest.fixture(scope="module")
def archive():
    sys.path.insert(0, str(RELEASE))
    try:
        import archive
    finally:
        sys.path.remove(str(RELEASE))
    return archive


def tree(folder: Path, names: list[str], time: int, mode: int) -> Path:
    for name in names:
        path = folder / "dca-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")
        path.chmod(mode)
        os.utime(path, (time, time))
    (folder / "dca-1" / "libdca.so").symlink_to("libdca.so.0")
    return folder / "dca-1"


def test_times_order_and_masks_of_files_change_nothing(archive, tmp_path):
    names = ["lib/b", "lib/a", "include/dca.h"]
    first = tree(tmp_path / "first", names, 1, 0o600)
    second = tree(tmp_path / "second", names[::-1], 10**9, 0o664)
    packed = [archive.packed(one, tmp_path / f"{i}.tar.gz", 500) for i, one in enumerate((first, second))]
    assert packed[0].read_bytes() == packed[1].read_bytes()


def test_what_was_packed_comes_back(archive, tmp_path):
    folder = tree(tmp_path / "from", ["lib/a"], 1, 0o755)
    back = archive.unpacked(archive.packed(folder, tmp_path / "a.tar.gz", 500), tmp_path / "to")
    assert back.name == "dca-1" and (back / "lib" / "a").read_text() == "text of lib/a\n"
    assert (back / "libdca.so").readlink() == Path("libdca.so.0")
    assert os.access(back / "lib" / "a", os.X_OK) and (back / "lib" / "a").stat().st_mtime == 500
