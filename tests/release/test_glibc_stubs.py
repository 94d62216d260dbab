"""What is linked against the stubs asks for no newer glibc than they stand for."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("elftools", reason="needs pyelftools")
RELEASE = Path(__file__).parents[2] / "release"
SOURCE = """
#include <cmath>
#include <dlfcn.h>
#include <memory>
#include <stdexcept>
#include <sys/stat.h>
#include <thread>
// What the headers of glibc 2.38 make of strtol and sscanf.
extern "C" long __isoc23_strtol(const char*, char**, int);
extern "C" unsigned long long __isoc23_strtoull(const char*, char**, int);
extern "C" int __isoc23_sscanf(const char*, const char*, ...);
extern "C" long long reads_numbers(const char* hexadecimal, const char* decimal) {
    int scanned = 0;
    if (__isoc23_sscanf(decimal, "%d", &scanned) != 1) return -1;
    const unsigned long long read = __isoc23_strtoull(decimal, nullptr, 10);
    return __isoc23_strtol(hexadecimal, nullptr, 16) + scanned + static_cast<long long>(read);
}
extern "C" double uses_what_changed(const char* path, double x) {
    struct stat status;
    if (stat(path, &status) != 0 || dlopen(path, RTLD_NOW) == nullptr) throw std::runtime_error(path);
    const auto shared = std::make_shared<double>(x);
    std::thread([shared] { *shared = std::pow(*shared, 0.3) + std::exp(*shared); }).join();
    return *shared;
}
"""


def newest(library: Path) -> tuple[int, ...]:
    """The newest version of glibc that the library asks for."""
    dump = subprocess.run(["objdump", "-T", library], check=True, capture_output=True, text=True).stdout
    return max(tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", dump))


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    """``link(*flags)`` is the library of SOURCE, linked with those flags."""
    if shutil.which("g++") is None or shutil.which("objdump") is None:
        pytest.skip("needs g++ and objdump")
    folder = tmp_path_factory.mktemp("stubs")
    sys.path.insert(0, str(RELEASE))
    try:
        from glibc_stubs import make_stubs
    finally:
        sys.path.remove(str(RELEASE))
    make_stubs("g++", "2.28", folder / "stubs")
    (folder / "source.cpp").write_text(SOURCE)

    def link(*flags: str) -> Path:
        out = folder / f"{len(flags)}.so"
        command = ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-Wl,-z,defs", "source.cpp", "-o", out]
        subprocess.run(
            [*command, *(flag.format(stubs=folder / "stubs") for flag in flags)], cwd=folder, check=True
        )
        return out

    link.stubs = folder / "stubs"
    return link


@pytest.fixture(scope="module")
def library(link) -> Path:
    """The library as wheels are linked."""
    loader = next((link.stubs).glob("ld-linux-*.so.*"))
    libraries = ["-Wl,--no-as-needed", "-lpthread", "-ldl", str(loader)]
    return link("-L{stubs}", "-static-libstdc++", "{stubs}/glibc_compat.o", *libraries)


def test_the_library_loads_where_that_release_is(link, library):
    if newest(link("{stubs}/glibc_compat.o")) <= (2, 28):
        pytest.skip("the glibc that is here is that old")
    assert newest(library) <= (2, 28)


def test_what_newer_headers_call_reads_numbers(library):
    loaded = ctypes.CDLL(str(library))
    loaded.reads_numbers.restype = ctypes.c_longlong
    assert loaded.reads_numbers(b"ff", b"12") == 255 + 12 + 12
