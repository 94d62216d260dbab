"""An installed tree of the library, made from a CMake build."""

import fcntl
import os
from pathlib import Path

import pytest
from installing import ROOT, run, tool

BUILD = ROOT / "build" / "native"  # what `make native-test` built, brought up to date


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix below which `cmake --install` has put everything."""
    cmake = tool("cmake")
    prefix = tmp_path_factory.mktemp("installed") / "prefix"
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "sdk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest's workers come at once
        # pip builds in this folder too, and then nothing but the wheel's files is installed.
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        run(cmake, "-S", ROOT, "-B", BUILD, "-G", "Ninja", ninja, "-USKBUILD", "-DDCA_CUDA=OFF")
        run(cmake, "--build", BUILD, "--target", "dca", timeout=1500)
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
