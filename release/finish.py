"""Ends a release: packs the site, checks what is there, writes checksums and notes, and says what was made.

python release/finish.py dist
"""

import argparse
import re
import sys
from pathlib import Path

from archive import packed
from check import problems, text_of, version
from wheels import ROOT, digest, release_time

SITE = ROOT / "build" / "site"
SUMS, NOTES = "SHA256SUMS", "NOTES.md"
KINDS = (  # what a file is, by what its name matches
    (r"dca_export-.*\.whl", "the package for Python"),
    (r"dca_export_cuda-.*\.whl", "the GPU backend for the package"),
    (r"dca_export-.*\.tar\.gz", "the sources"),
    (r"dca-.*-linux-.*\.tar\.gz", "the library for C and C++"),
    (r"dca-export-.*-site\.tar\.gz", "the documentation"),
)


def changes(number: str) -> str:
    """What CHANGELOG.md says of the version."""
    found = re.search(
        rf"^## \[{re.escape(number)}\][^\n]*\n(.*?)(?=^## \[|\Z)", text_of("CHANGELOG.md"), re.M | re.S
    )
    if found is None:
        sys.exit(f"CHANGELOG.md has no heading for {number}")
    return found[1].strip()


def kind(name: str) -> str:
    return next((what for pattern, what in KINDS if re.fullmatch(pattern, name)), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=Path)
    dist, number = parser.parse_args().dist, version()
    if not SITE.is_dir():
        sys.exit(f"{SITE}: not there; make site")
    packed(SITE, dist / f"dca-export-{number}-site.tar.gz", int(release_time()))
    found = list(problems(dist))
    if found:
        sys.exit("\n".join(found))
    made = sorted(path for path in dist.iterdir() if re.search(rf"-{re.escape(number)}(-|\.tar)", path.name))
    (dist / SUMS).write_text("".join(f"{digest(path)}  {path.name}\n" for path in made), encoding="utf-8")
    rows = [f"| `{path.name}` | {kind(path.name)} | {path.stat().st_size / 1e6:.2f} MB |" for path in made]
    table = "\n".join(["| file | what | size |", "|---|---|---|", *rows])
    notes = f"# dca-export {number}\n\n{changes(number)}\n\n## Files\n\n{table}\n"
    (dist / NOTES).write_text(notes, encoding="utf-8")
    print(f"dca-export {number}, in {dist}:")
    for path in made:
        print(f"  {path.name:64s} {path.stat().st_size:>12,} bytes  {kind(path.name)}")
    print(f"  {SUMS}, {NOTES}")


if __name__ == "__main__":
    main()
