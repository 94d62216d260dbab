"""Programs that were built against the last release go on to run: abi.py says what that takes."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from abi import RECORD, ROOT, broken, described, symbols
from c_tokenizer import declarations

BUMP = (
    "Put it back beside what is new. Where that cannot be: raise DCA_ABI in native/CMakeLists.txt and the "
    "number in native/exports.map, say so in CHANGELOG.md, and write the record anew: "
    "python tests/sdk/abi.py --write"
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now(compiler) -> dict[str, Any]:
    return described(declarations(), compiler)


def test_nothing_that_programs_rely_on_has_changed(record, now):
    gone = broken({**record, "symbols": []}, now)
    assert gone == [], f"The ABI of release {record['release']} is broken. {BUMP}"


@pytest.mark.timeout(1800)
def test_no_symbol_is_gone(record, library):
    there = set(symbols(library))
    gone = [name for name in record["symbols"] if name not in there]
    assert gone == [], f"The ABI of release {record['release']} is broken. {BUMP}"


@pytest.mark.timeout(1800)
def test_what_the_headers_declare_is_what_the_library_exports(now, library):
    assert {name.partition("@")[0] for name in symbols(library)} == set(now["functions"])


def test_the_record_is_of_this_abi(record):
    cmake = (ROOT / "native" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"set\(DCA_ABI (\d+)\)", cmake)[1] == str(record["abi"])  # type: ignore[index]
    assert f"DCA_{record['abi']} {{" in (ROOT / "native" / "exports.map").read_text(encoding="utf-8")


def test_the_document_names_every_function_and_struct(now):
    text = (Path(ROOT) / "docs" / "c-api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bdca_\w+", text))
    assert {name for name in [*now["functions"], *now["structs"]] if name not in named} == set()
    assert {name for name in named if name.startswith(("dca_model_", "dca_engine_", "dca_session_"))} <= {
        *now["functions"],
        *now["structs"],
    }


# The comparison itself.

OLD = """
typedef enum colour { RED = 0, BLUE = 1 } colour;
typedef struct sized { size_t size; int32_t a; int32_t b; } sized;
typedef struct fixed { int32_t a; float b; } fixed;
int f(int a, const sized* b);
"""


@pytest.mark.parametrize(
    ("change", "into", "said"),
    [
        ("int32_t b; } sized", "int32_t b; int64_t c; } sized", []),
        ("BLUE = 1", "BLUE = 1, GREEN = 2", []),
        ("int f(", "void g(void); int f(", []),
        ("float b; } fixed", "float b; int32_t c; } fixed", ["fixed had 8 bytes"]),
        (
            "int32_t a; int32_t b; } sized",
            "int32_t b; int32_t a; } sized",
            ["sized.a was at", "sized.b was at"],
        ),
        ("float b", "int32_t b", ["fixed.b was at"]),
        ("float b", "float c", ["fixed.b was at"]),
        ("BLUE = 1", "BLUE = 2", ["BLUE was 1, is 2"]),
        ("BLUE = 1", "GREEN = 1", ["BLUE was 1, is gone"]),
        ("int f(int a,", "int f(long a,", ["f was"]),
        ("int f(", "int g(", ["f was"]),
    ],
)
def test_what_breaks_programs_is_found(compiler, change, into, said):
    assert change in OLD
    found = broken(described(OLD, compiler), described(OLD.replace(change, into), compiler))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True)), found


def test_a_missing_symbol_is_found(compiler):
    before = described(OLD, compiler) | {"symbols": ["f@@DCA_0", "g@@DCA_0"]}
    after = copy.deepcopy(before) | {"symbols": ["f@@DCA_0"]}
    assert broken(before, after) == ["g@@DCA_0 is no longer exported"]
