"""Link libraries of an older glibc, made from the one that is installed here.

A library that is linked against today's glibc asks for today's versions of its symbols and does not load on
an older system. glibc keeps every older version of a symbol beside the newest, so what an older release
offered can be read off its successors: for each function the newest version that is not newer than that
release. This makes such libraries: empty functions under the right names and versions, for the linker to see
and nobody to run.

    python release/glibc_stubs.py --compiler g++ --release 2.28 OUT

What the headers of a newer glibc refer to and the older release did not have (fstat as a function, say) is
in glibc_compat.c, which lands in OUT as glibc_compat.o.
"""

import argparse
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

# In 2.34 these moved into libc.so.6; before, programs named the libraries that they were in.
MOVED = {
    "libpthread.so.0": re.compile(r"_*(pthread_|sem_)"),
    "libdl.so.2": re.compile(r"dl(open|close|sym|vsym|error|addr|addr1|info|mopen)$"),
    "librt.so.1": re.compile(r"(aio_|lio_|mq_|shm_|timer_)"),
}
SEPARATE = ("libm.so.6",)
LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")


@dataclass(frozen=True)
class Symbol:
    name: str
    version: str  # as in GLIBC_2.17
    is_data: bool
    size: int
    is_newest: bool  # no newer version of the name exists here


def number(version: str) -> tuple[int, ...]:
    """GLIBC_2.2.5 as (2, 2, 5)."""
    return tuple(int(part) for part in version.removeprefix("GLIBC_").split("."))


def symbols_of(library: Path, release: tuple[int, ...]) -> list[Symbol]:
    """What ``library`` exported in ``release``: of each name the newest version up to then."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        table, versions = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
        definitions = elf.get_section_by_name(".gnu.version_d")
        assert isinstance(table, SymbolTableSection)
        names = {
            definition.entry["vd_ndx"]: next(iter(aux)).name
            for definition, aux in definitions.iter_versions()
        }
        found: dict[str, list[tuple[tuple[int, ...], str, bool, int]]] = defaultdict(list)
        for index, symbol in enumerate(table.iter_symbols()):
            entry = versions.get_symbol(index).entry["ndx"]
            version = names.get(entry & 0x7FFF, "") if isinstance(entry, int) else ""
            if symbol["st_shndx"] in ("SHN_UNDEF", "SHN_ABS") or not re.fullmatch(r"GLIBC_[\d.]+", version):
                continue
            is_data = symbol["st_info"]["type"] in ("STT_OBJECT", "STT_TLS")
            found[symbol.name].append((number(version), version, is_data, symbol["st_size"]))
    symbols = []
    for name, versions_of_name in sorted(found.items()):
        old = [one for one in versions_of_name if one[0] <= release]
        if old:
            _, version, is_data, size = max(old)
            symbols.append(Symbol(name, version, is_data, size, max(old) == max(versions_of_name)))
    return symbols


def libraries(find: dict[str, Path], release: tuple[int, ...]) -> dict[str, list[Symbol]]:
    """The symbols of each library of ``release``, by file name."""
    split: dict[str, list[Symbol]] = defaultdict(list)
    for symbol in symbols_of(find["libc.so.6"], release):
        # What did not move has no newer version.
        moved = [name for name, which in MOVED.items() if which.match(symbol.name)]
        split[moved[0] if moved and not symbol.is_newest else "libc.so.6"].append(symbol)
    for name in find.keys() - {"libc.so.6"}:
        split[name] = symbols_of(find[name], release)
    return split


def make_stub(compiler: str, name: str, symbols: list[Symbol], out: Path) -> None:
    """Links ``out``/``name`` with those symbols, and ``out``/libX.so to it for the linker's -lX."""
    source, script = [], defaultdict(list)
    for symbol in symbols:
        script[symbol.version].append(symbol.name)
        kind = "object" if symbol.is_data else "function"
        source.append(f".globl {symbol.name}\n.type {symbol.name}, %{kind}\n{symbol.name}:")
        source.append(
            f".skip {max(symbol.size, 1) if symbol.is_data else 1}\n.size {symbol.name}, .-{symbol.name}"
        )
    nodes = [
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};"
        for version, names in sorted(script.items(), key=lambda item: number(item[0]))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        assembly, versions = Path(scratch, "stub.s"), Path(scratch, "stub.map")
        assembly.write_text(".data\n" + "\n".join(source) + "\n", encoding="ascii")
        versions.write_text("\n".join(nodes) + "\n", encoding="ascii")
        subprocess.run(
            [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", f"-Wl,--version-script,{versions}"]
            + [str(assembly), "-o", str(out / name)],
            check=True,
        )
    link = out / (name.partition(".so")[0] + ".so")
    link.unlink(missing_ok=True)
    link.symlink_to(name)


def make_stubs(compiler: str, release: str, out: Path) -> None:
    """Fills ``out`` with the link libraries of glibc ``release``, for the machine of ``compiler``."""
    find = {}
    for name in ("libc.so.6", *SEPARATE, *LOADERS):
        path = subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        if Path(path).is_absolute():  # otherwise the name alone: another machine's loader
            find[name] = Path(path)
    out.mkdir(parents=True, exist_ok=True)
    for name, symbols in libraries(find, number(release)).items():
        make_stub(compiler, name, symbols, out)
    subprocess.run(
        [compiler, "-x", "c", "-c", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
        + ["-ffunction-sections", str(Path(__file__).with_name("glibc_compat.c"))]
        + ["-o", str(out / "glibc_compat.o")],
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--release", default="2.28")
    arguments = parser.parse_args()
    make_stubs(arguments.compiler, arguments.release, arguments.out)


if __name__ == "__main__":
    main()
