"""Whether what is about to be released is one version, named everywhere, and all there.

python release/check.py          # before anything is built
python release/check.py dist     # and what is in dist
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def version() -> str:
    return tomllib.loads(text_of("pyproject.toml"))["project"]["version"]


def stated_versions() -> dict[str, str]:
    """What each file says the version is."""
    cuda = tomllib.loads(text_of("release/cuda/pyproject.toml"))["project"]
    main = next(need for need in cuda["dependencies"] if need.startswith("dca-export=="))
    patterns = {
        "CMakeLists.txt": r"^project\(dca_export VERSION ([\d.]+)",
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$",
    }
    found = {path: re.search(pattern, text_of(path), re.M) for path, pattern in patterns.items()}
    return {
        "release/cuda/pyproject.toml": cuda["version"],
        "release/cuda/pyproject.toml, its need of dca-export": main.removeprefix("dca-export=="),
    } | {path: match[1] if match else "none" for path, match in found.items()}


def missing(dist: Path, number: str) -> Iterator[str]:
    """The files of a release that are not in ``dist``; dca-export-cuda (an hour) may be left out."""
    names = [f"dca_export-{number}.tar.gz", f"dca-export-{number}-site.tar.gz"]
    for machine in ("x86_64", "aarch64"):
        names.append(f"dca_export-{number}-py3-none-manylinux_2_28_{machine}.whl")
        names.append(f"dca-{number}-linux-{machine}.tar.gz")
    for name in names:
        if not (dist / name).is_file():
            yield name


def abi_is_recorded(number: str) -> bool:
    """Whether the record in tests/sdk is of this version and of what the headers say today."""
    sys.path.insert(0, str(ROOT / "tests" / "sdk"))
    from abi import RECORD, RELEASED, recorded, released  # type: ignore[import-not-found]

    declared = RELEASED.read_text(encoding="utf-8") == released()
    return declared and json.loads(RECORD.read_text(encoding="utf-8")) == recorded(number)


def problems(dist: Path | None) -> Iterator[str]:
    number = version()
    for place, stated in stated_versions().items():
        if stated != number:
            yield f"{place}: {stated}, pyproject.toml says {number}"
    if re.search(r"^## \[Unreleased\]", text_of("CHANGELOG.md"), re.M):
        yield "CHANGELOG.md: [Unreleased] has entries; give them the version's heading"
    if not abi_is_recorded(number):
        yield f"tests/sdk/abi.json is not that of {number}; python tests/sdk/abi.py --write, and commit it"
    for name in missing(dist, number) if dist is not None else ():
        yield f"{dist / name}: not there; make release"
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True
    )
    if changed.stdout:
        yield f"uncommitted changes:\n{changed.stdout.rstrip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=Path, nargs="?")
    found = list(problems(parser.parse_args().dist))
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
