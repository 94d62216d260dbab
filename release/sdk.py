"""The library for programs in C and C++ as archives: what `cmake --install` puts below a prefix.

    python release/sdk.py dist [--model MODEL.gguf]

They hold for the systems that the wheels hold for. Each is unpacked elsewhere, the examples are compiled with
what its pkg-config file says and by its CMake package, and, with a model, they are run, under qemu where they
are another machine's, and must say what Python says.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from archive import packed, unpacked
from wheels import ROOT, TARGETS, digest, portable, release_time, version

EXAMPLES = ("generate", "batch")
PROMPT, TOKENS = "Once upon a time", "8"
LINES = (
    "The capital of France is",
    "Once upon a time",
    "One, two, three,",
    "Water is made of",
    "She opened the",
)


def run(*command: object, **options) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def make(target: str, out: Path) -> Path:
    """The archive for one machine. The wheel's build has compiled the objects already."""
    build = ROOT / "build" / "wheels" / target
    defines = portable(target) | {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_LIBDIR": "lib",
        "DCA_CUDA": "OFF",
    }
    settings = [f"-D{name}={value}" for name, value in defines.items()]
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-USKBUILD", *settings)
    run("cmake", "--build", build, "--target", "dca")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / f"dca-{version()}-linux-{target}"
        run("cmake", "--install", build, "--prefix", folder, "--component", "sdk")
        shutil.copytree(ROOT / "examples" / "c", folder / "examples")
        shutil.copy(ROOT / "LICENSE", folder)
        shutil.copy(ROOT / "docs" / "c-api.md", folder)
        return packed(folder, out / f"{folder.name}.tar.gz", int(release_time()))


def check(archive: Path, target: str, model: Path | None) -> None:
    """Ends the run unless the examples compile against the archive and say what Python says of ``model``."""
    here = target == os.uname().machine
    cross = "" if here else f"{target}-linux-gnu-"
    with tempfile.TemporaryDirectory() as scratch:
        tree = unpacked(archive, Path(scratch))
        where = {**os.environ, "PKG_CONFIG_LIBDIR": str(tree / "lib" / "pkgconfig")}
        flags = run("pkg-config", "--cflags", "--libs", "dca", env=where).split()
        for name in EXAMPLES:
            source, program = tree / "examples" / f"{name}.c", tree / name
            strict = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
            # The library asks for an older glibc than the one that is linked here.
            run(f"{cross}gcc", *strict, source, *flags, "-o", program)
        # find_package(dca) compiles them too.
        system = [] if here else ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target}"]
        system += [f"-DCMAKE_C_COMPILER={cross}gcc", f"-DCMAKE_PREFIX_PATH={tree}"]
        run("cmake", "-S", tree / "examples", "-B", tree / "by-cmake", "-G", "Ninja", *system)
        run("cmake", "--build", tree / "by-cmake")
        if model is None:
            return
        start = ["env"] if here else [f"qemu-{target}", "-L", f"/usr/{target}-linux-gnu", "-E"]
        start.append(f"LD_LIBRARY_PATH={tree / 'lib'}")
        generated = run(*start, tree / "generate", model, PROMPT, TOKENS)
        answered = run(*start, tree / "batch", model, TOKENS, input="\n".join(LINES) + "\n")
    text, answers = by_python(model)
    for name, said, expected in (("generate", generated, text), ("batch", answered, answers)):
        if sorted(said.splitlines()) != sorted(expected.splitlines()):
            sys.exit(f"{archive.name}: examples/{name} says {said!r}, Python {expected!r}")
        print(f"{archive.name}: examples/{name} says what Python says, {said.strip()!r}")


def by_python(model: Path) -> tuple[str, str]:
    """What the examples have to print: generate's text, batch's answers."""
    import dca_runtime as dca

    with dca.Model(model, device="cpu") as loaded:

        def text(prompt: str | list[int]) -> str:
            return "".join(loaded.generate(prompt, max_tokens=int(TOKENS), temperature=0.0))

        # batch takes lines of strangers: control tokens in them are text, and nothing is put before them.
        plain = [loaded.tokenizer.encode(line, add_special=False, parse_special=False) for line in LINES]
        answers = "".join(f"{number}\t{text(ids)}\n" for number, ids in enumerate(plain, 1))
        return text(PROMPT) + "\n", answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder for the archives")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--model", type=Path, help="a small model, as GGUF, for the example to run")
    arguments = parser.parse_args()
    for target in arguments.targets:
        archive = make(target, arguments.out)
        check(archive, target, arguments.model)
        print(f"{archive.name}: {archive.stat().st_size / 1e6:.2f} MB, sha256 {digest(archive)}")


if __name__ == "__main__":
    main()
