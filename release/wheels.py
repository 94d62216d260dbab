"""Builds the wheels that a release consists of, and checks them.

    python release/wheels.py dist                            # dca-export for both machines, and the sdist
    python release/wheels.py dist --targets x86_64 --twice   # and again from the sdist: the same bytes?
    python release/wheels.py dist --cuda --targets x86_64    # dca-export-cuda

Needs g++, for aarch64 also aarch64-linux-gnu-g++, and the packages of the extra `release`.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from archive import unpacked
from glibc_stubs import make_stubs

ROOT = Path(__file__).resolve().parents[1]
GLIBC = "2.28"  # of AlmaLinux 8, Debian 10, Ubuntu 18.10 and all later ones
POLICY = f"manylinux_{GLIBC.replace('.', '_')}"
TARGETS = ("x86_64", "aarch64")
LARGEST = 6_000_000  # bytes of a wheel of dca-export
CUBLAS = "libcublasLt.so.13"  # of nvidia-cublas
FIRST_ZIP_YEAR = 315_532_800  # 1980-01-01: zip files know no earlier time


def release_time() -> str:
    """SOURCE_DATE_EPOCH: as it is set, else the time of the last commit, else (in an sdist) 1980."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    git = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True
    )
    return git.stdout.strip() or str(FIRST_ZIP_YEAR)


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def compiler(target: str) -> str:
    return "g++" if target == os.uname().machine else f"{target}-linux-gnu-g++"


def portable(target: str) -> dict[str, str]:
    """What CMake is told for libraries that load wherever glibc is as old as GLIBC."""
    stubs = ROOT / "build" / "wheels" / "stubs" / target
    make_stubs(compiler(target), GLIBC, stubs)
    return {
        "CMAKE_TOOLCHAIN_FILE": str(ROOT / "release" / "portable.cmake"),
        "DCA_TARGET": target,
        "DCA_STUBS": str(stubs),
    }


def build(source: Path, target: str, out: Path, build_dir: Path, defines: dict[str, str]) -> Path:
    """One wheel of the project in ``source`` for ``target``, in ``out``."""
    defines = portable(target) | defines
    settings = [
        f"-Cbuild-dir={build_dir}",
        *(f"-Ccmake.define.{name}={value}" for name, value in defines.items()),
    ]
    # What Python says of the machine that it runs on becomes the wheel's tag.
    environment = os.environ | {
        "_PYTHON_HOST_PLATFORM": f"{POLICY}-{target}",
        "SOURCE_DATE_EPOCH": release_time(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "build",
                "--wheel",
                "--no-isolation",
                "--outdir",
                scratch,
                *settings,
                str(source),
            ],
            check=True,
            env=environment,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return wheel.replace(out / wheel.name)


def check(wheel: Path, target: str, largest: int | None, others: set[str]) -> None:
    """Ends the run if the wheel is not what its tag says, or too large.

    others: libraries outside the policy that it may need, since a package that it depends on has them.
    """
    if not wheel.name.endswith(f"-py3-none-{POLICY}_{target}.whl"):
        sys.exit(f"{wheel.name}: expected the tag py3-none-{POLICY}_{target}")
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if set(shown["external_libs"]) != others:
        sys.exit(f"{wheel.name}: needs {', '.join(shown['external_libs'])}, expected {others or 'nothing'}")
    # The oldest policy whose versions of symbols are enough.
    tag = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{target}", shown["sym_tag"])
    if tag is None or (int(tag[1]), int(tag[2])) > tuple(map(int, GLIBC.split("."))):
        sys.exit(f"{wheel.name}: its symbols are those of {shown['sym_tag']}")
    size = wheel.stat().st_size
    if largest is not None and size > largest:
        sys.exit(f"{wheel.name}: {size} bytes, at most {largest}")
    print(f"{wheel.name}: {size / 1e6:.2f} MB, sha256 {digest(wheel)}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sdist(out: Path) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", scratch, str(ROOT)],
            check=True,
            env=os.environ | {"SOURCE_DATE_EPOCH": release_time()},
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        out.mkdir(parents=True, exist_ok=True)
        return archive.replace(out / archive.name)


def check_sources(archive: Path) -> None:
    """Ends the run if the sdist holds other files than git's and its own description."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode != 0:  # an sdist's tree
        return
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar if member.isfile()}
    if strange := sorted(held - {"PKG-INFO", *listed.stdout.split("\0")}):
        sys.exit(f"{archive.name}: holds {len(strange)} files that are not in git, such as {strange[0]}")


def same(first: Path, second: Path) -> None:
    """Ends the run if the two files differ."""
    if digest(first) != digest(second):
        sys.exit(f"{first.name}: a second build gave other bytes ({first} and {second})")
    print(f"{first.name}: the same bytes from a second build")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder for the files")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--twice", action="store_true", help="build again, from the sdist, and compare")
    parser.add_argument("--cuda", action="store_true", help="dca-export-cuda instead")
    parser.add_argument("--define", action="append", default=[], metavar="NAME=VALUE", help="for CMake")
    arguments = parser.parse_args()
    os.environ["SOURCE_DATE_EPOCH"] = release_time()  # of all that is built below, in an sdist's tree too
    largest, kind = (None, "cuda-") if arguments.cuda else (LARGEST, "")
    project = Path("release/cuda") if arguments.cuda else Path()
    defines = {"DCA_CUDA": "ON" if arguments.cuda else "OFF"}
    defines |= dict(one.split("=", 1) for one in arguments.define)
    builds = ROOT / "build" / "wheels"
    archive = sdist(builds / "sdist" if arguments.cuda else arguments.out)
    check_sources(archive)
    if not arguments.cuda:
        print(f"{archive.name}: {archive.stat().st_size / 1e6:.2f} MB, sha256 {digest(archive)}")
        if arguments.twice:
            same(archive, sdist(builds / "again"))
    for target in arguments.targets:
        wheel = build(ROOT / project, target, arguments.out, builds / f"{kind}{target}", defines)
        check(wheel, target, largest, {CUBLAS} if arguments.cuda else set())
        if arguments.twice:
            os.environ["CCACHE_DISABLE"] = "1"
            for name in ("unpacked", f"again-{kind}{target}"):
                shutil.rmtree(builds / name, ignore_errors=True)
            tree, again = unpacked(archive, builds / "unpacked"), builds / f"again-{kind}{target}"
            same(wheel, build(tree / project, target, builds / "again", again, defines))


if __name__ == "__main__":
    main()
