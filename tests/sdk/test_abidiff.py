"""What abidiff (libabigail, no code of ours) says of the declarations of the last release beside today's."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pycparser
import pytest
from abi import OTHERS, RELEASED, uncommented
from c_tokenizer import declarations
from installing import run, tool
from pycparser import c_ast, c_generator

# A struct that only grew, in abidiff's words: its size before, and where its new fields begin.
GREW = re.compile(
    r"^'struct [^\n]*' changed:\n  type size changed from (\d+) [^\n]*\n"
    r"  \d+ data member insertions?:\n((?:    '[^\n]*', at offset \d+ [^\n]*\n)+)",
    re.MULTILINE,
)


@pytest.fixture
def compared(compiler, tmp_path) -> Callable[[str, str], str]:
    """``compared(before, now)``: what programs that were compiled with ``before`` would miss."""
    abidiff = tool("abidiff")

    def compared(before: str, now: str) -> str:
        both = [
            library(text, tmp_path / f"{name}.so", compiler) for name, text in (("a", before), ("b", now))
        ]
        # New functions are left out by the option, new enumerators since abidiff takes them for harmless.
        command = [abidiff, "--leaf-changes-only", "--no-added-syms", *both]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode & 3, (
            done.stderr
        )  # 1: it failed, 2: it was called wrongly; 4 and 8: changes
        return GREW.sub(without_new_ends, done.stdout.partition("\n\n")[2]).strip()

    return compared


def without_new_ends(grew: re.Match[str]) -> str:
    """Nothing, if the new fields lie behind the struct of before."""
    offsets = map(int, re.findall(r"at offset (\d+)", grew[2]))
    return "" if min(offsets) >= int(grew[1]) else grew[0]


def library(text: str, path: Path, compiler: str) -> Path:
    """A library with debug information whose functions are those of ``text``, and do nothing."""
    parsed = pycparser.CParser().parse("".join(f"typedef int {name};" for name in OTHERS) + text)
    functions = [
        c_generator.CGenerator().visit(entry)
        for entry in parsed.ext
        if isinstance(entry, c_ast.Decl) and isinstance(entry.type, c_ast.FuncDecl)
    ]
    bodies = "".join(f"{function} {{ __builtin_trap(); }}\n" for function in functions)
    source = path.with_suffix(".c")
    source.write_text(f"#include <stddef.h>\n#include <stdint.h>\n{text}\n{bodies}")
    run(compiler, "-w", "-g", "-shared", "-fPIC", source, "-o", path)
    return path


def test_programs_built_against_the_last_release_go_on_to_run(compared):
    assert compared(RELEASED.read_text(encoding="utf-8"), uncommented(declarations())) == ""


OLD = """
typedef enum colour { RED = 0, BLUE = 1 } colour;
typedef struct sized { size_t size; int32_t a; int32_t b; } sized;
int paint(colour a, const sized* b);
"""


@pytest.mark.parametrize(
    ("change", "into"),
    [
        ("int32_t b; }", "int32_t b; int64_t c; }"),
        ("BLUE = 1", "BLUE = 1, GREEN = 2"),
        ("int paint(", "void wash(void); int paint("),
    ],
)
def test_what_is_new_breaks_nothing(compared, change, into):
    assert compared(OLD, OLD.replace(change, into)) == ""


@pytest.mark.parametrize(
    ("change", "into", "named"),
    [
        ("int paint(", "int draw(", "paint"),
        ("const sized* b)", "const sized* b, int32_t c)", "paint"),
        ("int32_t a; int32_t b;", "int32_t b; int32_t a;", "sized"),
        ("int32_t a; int32_t b;", "int32_t a; int64_t b;", "sized"),
        ("BLUE = 1", "BLUE = 2", "BLUE"),
    ],
)
def test_what_programs_would_miss_is_named(compared, change, into, named):
    assert named in compared(OLD, OLD.replace(change, into))
