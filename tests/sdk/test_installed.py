"""What `cmake --install` gives: CMake and pkg-config find it, and the examples say what Python says."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from installing import ROOT, run, tool

import dca_runtime

pytestmark = pytest.mark.timeout(1800)  # the first test builds the library
EXAMPLES = ROOT / "examples" / "c"
PROMPTS = ["the cat in a hat", "Once upon", "éa 中", "<|im_start|>a", "in the a in the"]


def pkg_config(installed: Path, *asked: str) -> str:
    (folder,) = {path.parent for path in installed.rglob("dca.pc")}
    return run(tool("pkg-config"), *asked, "dca", env={**os.environ, "PKG_CONFIG_PATH": str(folder)}).strip()


def test_the_library_has_a_soname_with_the_number_of_its_abi(library):
    assert re.search(r"SONAME.*\[libdca\.so\.0\]", run(tool("readelf"), "-d", library))
    links = {path.name for path in library.parent.glob("libdca.so*")}
    assert links == {"libdca.so", "libdca.so.0", f"libdca.so.{dca_runtime.__version__}"}


def test_every_symbol_is_ours_and_has_a_version(library):
    names = {line.split()[-1] for line in run(tool("nm"), "-D", "--defined-only", library).splitlines()}
    assert {name for name in names if not re.fullmatch(r"dca_\w+@@DCA_0|DCA_0", name)} == set()


@pytest.mark.parametrize("standard", ["-std=c99", "-std=c11"])
@pytest.mark.parametrize("header", ["dca.h", "dca_text.h"])
def test_headers_are_plain_c(installed, compiler, tmp_path, standard, header):
    source = tmp_path / "only.c"
    source.write_text(f"#include <{header}>\n")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wstrict-prototypes", "-Werror"]
    run(compiler, standard, *warnings, *pkg_config(installed, "--cflags").split(), "-fsyntax-only", source)


def test_headers_are_cpp_too(installed, tmp_path):
    source = tmp_path / "only.cpp"
    source.write_text("#include <dca_text.h>\nint main() { return dca_version() == nullptr; }\n")
    run(
        tool("c++"),
        "-Wall",
        "-Wextra",
        "-Werror",
        *pkg_config(installed, "--cflags").split(),
        "-fsyntax-only",
        source,
    )


def test_pkg_config_moves_with_the_tree(installed, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(installed)
    assert str(moved) in pkg_config(moved, "--cflags") and str(moved) in pkg_config(moved, "--libs")
    assert pkg_config(installed, "--modversion") == dca_runtime.__version__


@pytest.mark.parametrize(("wanted", "found"), [("0.1", True), ("1.0", False), ("9.0", False)])
def test_find_package_knows_the_version(installed, tmp_path, wanted, found):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(user LANGUAGES NONE)\n"
        f'find_package(dca {wanted} QUIET)\nmessage(STATUS "found=${{dca_FOUND}}")\n'
    )
    build = [tool("cmake"), "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}"]
    assert f"found={int(found)}" in run(*build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")


@pytest.fixture(scope="module")
def by_cmake(installed, compiler, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("examples")
    made = [
        f"-DCMAKE_PREFIX_PATH={installed}",
        f"-DCMAKE_C_COMPILER={compiler}",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
    ]
    run(tool("cmake"), "-S", EXAMPLES, "-B", build, "-G", "Ninja", *made)
    run(tool("cmake"), "--build", build)
    return build


@pytest.fixture(scope="module")
def model(tiny_gguf) -> dca_runtime.Model:
    return dca_runtime.Model(tiny_gguf(tokenizer=True, scheme=(24, 8, 48), context_length=48))


def pythons_text(model: dca_runtime.Model, prompt, tokens: int) -> str:
    return "".join(model.generate(prompt, max_tokens=tokens, temperature=0.0, session=model.session(4096)))


def pythons_plain_text(model: dca_runtime.Model, prompt: str, tokens: int) -> str:
    """The same for a text whose control tokens are only spelt out."""
    return pythons_text(model, model.tokenizer.encode(prompt, add_special=False, parse_special=False), tokens)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_generator_says_what_python_says(by_cmake, model, prompt):
    said = run(by_cmake / "generate", model.path, prompt, 40)
    assert said == pythons_text(model, prompt, 40) + "\n"


def test_the_batch_server_answers_as_python_does(by_cmake, model):
    prompts = [*PROMPTS, *reversed(PROMPTS)]
    said = run(by_cmake / "batch", model.path, 20, input="\n".join(prompts) + "\n\n")
    answers = dict(line.split("\t", 1) for line in re.split(r"\n(?=\d+\t)", said.removesuffix("\n")))
    assert answers == {
        str(number): pythons_plain_text(model, prompt, 20) for number, prompt in enumerate(prompts, 1)
    }


def test_the_examples_compile_with_pkg_config_alone(installed, library, compiler, model, tmp_path):
    flags = pkg_config(installed, "--cflags", "--libs").split()
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    for name in ("generate", "batch"):
        run(compiler, *strict, EXAMPLES / f"{name}.c", *flags, "-o", tmp_path / name)
    where = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    said = run(tmp_path / "generate", model.path, "the", 5, env=where)
    assert said == pythons_text(model, "the", 5) + "\n"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["/nowhere.gguf", "x"], "/nowhere.gguf"), (["MODEL", "x", "0"], "max_tokens"), ([], "usage")],
)
def test_the_generator_says_in_a_line_what_is_wrong(by_cmake, model, arguments, names):
    command = [by_cmake / "generate", *(str(model.path) if word == "MODEL" else word for word in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and names in done.stderr and done.stderr.count("\n") == 1
