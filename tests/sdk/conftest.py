"""An installed tree of the library, made from a CMake build."""

import os
from pathlib import Path

import pytest
from installing import ROOT, run, tool

BUILD = ROOT / "build" / "tests"  # what `make native-test` built, brought up to date


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix below which `cmake --install` has put everything."""
    cmake = tool("cmake")
    if not (BUILD / "CMakeCache.txt").exists():
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        run(cmake, "-S", ROOT, "-B", BUILD, "-G", "Ninja", ninja, "-DDCA_TESTS=ON", "-DDCA_CUDA=OFF")
    run(cmake, "--build", BUILD, "--target", "dca", timeout=1500)
    prefix = tmp_path_factory.mktemp("installed") / "prefix"
    run(cmake, "--install", BUILD, "--prefix", prefix, "--component", "sdk")
    return prefix


@pytest.fixture(scope="session")
def library(installed: Path) -> Path:
    """The installed library itself."""
    (path,) = {found.resolve() for found in installed.glob("lib*/**/libdca.so")}
    return path


@pytest.fixture(scope="session")
def compiler() -> str:
    return os.environ.get("CC") or tool("cc")
