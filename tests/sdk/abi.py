"""What a program built against libdca relies on: symbols, functions' types, enumerators, layouts of structs.

    python tests/sdk/abi.py --write     writes the record anew, when a release is made

The record (abi.json) is the last release's. What it holds must stay: a symbol, a function's type, an
enumerator's value, where a field of a struct lies and what it is. What is new may come: functions,
enumerators, and fields at the end of structs that begin with their own size. Beside it lie the declarations
that it was made of (abi_released.h), for abidiff to say the same in its own way.
"""

import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pycparser
from pycparser import c_ast, c_generator

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("abi.json")
RELEASED = Path(__file__).with_name("abi_released.h")
OTHERS = ("size_t", "int32_t", "uint32_t", "int64_t", "uint64_t")  # types that the headers take from C's own
Abi = dict[str, Any]


def described(declarations: str, compiler: str = "cc") -> Abi:
    """Functions, enumerators and structs of plain C declarations; numbers are the compiler's."""
    bare = uncommented(declarations)
    parsed = pycparser.CParser().parse("".join(f"typedef int {name};" for name in OTHERS) + bare)
    functions, enumerators, structs = {}, [], {}
    for entry in parsed.ext:
        if isinstance(entry, c_ast.Decl) and isinstance(entry.type, c_ast.FuncDecl):
            functions[entry.name] = type_of(entry)
        for node in nodes(entry):
            if isinstance(node, c_ast.Enumerator):
                enumerators.append(node.name)
        inner = getattr(getattr(entry, "type", None), "type", None)
        if isinstance(entry, c_ast.Typedef) and isinstance(inner, c_ast.Struct) and inner.decls:
            structs[entry.name] = {field.name: type_of(field) for field in inner.decls}
    values, layouts = compiled(declarations, enumerators, structs, compiler)
    return {"functions": functions, "enumerators": values, "structs": layouts}


def uncommented(declarations: str) -> str:
    return re.sub(r"/\*.*?\*/", "", declarations, flags=re.DOTALL)


def nodes(node: c_ast.Node) -> Iterator[c_ast.Node]:
    yield node
    for _, child in node.children():
        yield from nodes(child)


def type_of(declaration: c_ast.Decl) -> str:
    """A declaration without the names of what it declares and of parameters."""
    nameless = copy.deepcopy(declaration)
    for node in nodes(nameless):
        if isinstance(node, c_ast.TypeDecl):
            node.declname = ""
        if isinstance(node, c_ast.Decl):
            node.name = None
    return " ".join(c_generator.CGenerator().visit(nameless.type).split())


def compiled(
    declarations: str, enumerators: list[str], structs: Mapping[str, Mapping[str, str]], compiler: str
) -> tuple[dict[str, int], Abi]:
    """Enumerators' values, and of each struct its size and its fields' offsets, sizes and types.

    A program that the compiler makes prints them.
    """
    lines = [f'printf("{name} %lld\\n", (long long){name});' for name in enumerators]
    for name, fields in structs.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in fields:
            place = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            lines.append(f'printf("{name} {field} %zu %zu\\n", {place});')
    headers = "".join(f"#include <{name}.h>\n" for name in ("stddef", "stdint", "stdio"))
    program = f"{headers}{declarations}\nint main(void) {{\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "layouts.c", Path(folder) / "layouts"
        source.write_text(program, encoding="utf-8")
        subprocess.run([compiler, "-w", source, "-o", made], check=True)
        said = subprocess.run([made], check=True, capture_output=True, text=True).stdout
    values: dict[str, int] = {}
    layouts: Abi = {}
    for name, *words in map(str.split, said.splitlines()):
        if name not in structs:
            values[name] = int(words[0])
        elif len(words) == 1:
            layouts[name] = {"size": int(words[0]), "fields": {}}
        else:
            field, offset, size = words
            layouts[name]["fields"][field] = [int(offset), int(size), structs[name][field]]
    return values, layouts


def symbols(library: Path) -> list[str]:
    """What a library exports, with versions."""
    said = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True)
    return sorted(line.split()[-1] for line in said.stdout.splitlines() if "@@" in line)


def broken(before: Abi, now: Abi) -> list[str]:
    """What of ``before`` is no more, a line each."""
    said = [
        f"{name} is no longer exported"
        for name in before.get("symbols", [])
        if name not in now.get("symbols", [])
    ]
    for what in ("functions", "enumerators"):
        for name, value in before[what].items():
            if now[what].get(name) != value:
                said.append(f"{name} was {value}, is {now[what].get(name, 'gone')}")
    for name, struct in before["structs"].items():
        found = now["structs"].get(name)
        if found is None:
            said.append(f"{name} is gone")
            continue
        for field, place in struct["fields"].items():
            if found["fields"].get(field) != place:
                said.append(f"{name}.{field} was at {place}, is at {found['fields'].get(field, 'no place')}")
        grows = next(iter(struct["fields"])) == "size"
        if found["size"] < struct["size"] or (found["size"] != struct["size"] and not grows):
            said.append(
                f"{name} had {struct['size']} bytes, has {found['size']}, and does not begin with its size"
            )
        if grows and found["size"] % 8:
            said.append(f"{name} has {found['size']} bytes, no number of whole words")
    return said


def recorded(release: str) -> Abi:
    """What the record of a release is: the headers' declarations, each function exported."""
    from c_tokenizer import declarations

    cmake = (ROOT / "native" / "CMakeLists.txt").read_text(encoding="utf-8")
    (number,) = re.findall(r"set\(DCA_ABI (\d+)\)", cmake)
    abi = described(declarations())
    abi["symbols"] = [f"{name}@@DCA_{number}" for name in sorted(abi["functions"])]
    return {"release": release, "abi": int(number), **abi}


def released() -> str:
    """The headers' declarations without comments."""
    from c_tokenizer import declarations

    lines = "\n".join(line.rstrip() for line in uncommented(declarations()).splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def main() -> int:
    if sys.argv[1:] != ["--write"]:
        print(__doc__, file=sys.stderr)
        return 2
    from dca_runtime.library import library_version

    RELEASED.write_text(released(), encoding="utf-8")
    RECORD.write_text(json.dumps(recorded(library_version()), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
