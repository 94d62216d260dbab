"""Archives that are the same bytes from the same files."""

import gzip
import tarfile
from pathlib import Path


def packed(folder: Path, archive: Path, time: int) -> Path:
    """``folder`` under its own name in ``archive`` (.tar.gz): names in order, of nobody, from ``time``."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = time
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    archive.parent.mkdir(parents=True, exist_ok=True)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=time) as packer:
        with tarfile.open(mode="w", fileobj=packer, format=tarfile.GNU_FORMAT) as tar:
            for path in (folder, *sorted(folder.rglob("*"))):
                tar.add(path, str(path.relative_to(folder.parent)), recursive=False, filter=plain)
    return archive


def unpacked(archive: Path, folder: Path) -> Path:
    """The one folder that ``archive`` holds, below ``folder``."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree
