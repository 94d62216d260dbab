"""Kernels and what calls them from PyTorch, compiled with nvcc into a shared library."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def compile_library(
    path: Path, sources: Sequence[Path], targets: Sequence[str], nvcc: str = "nvcc", jobs: int = 8
) -> Path:
    """``path``, made of the sources beside it; targets: as "90a"; raises CalledProcessError if nvcc fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = [nvcc, "-std=c++20", "-O3", "-Xcompiler", "-fPIC"]
    flags += [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native/include'}"]
    flags += [f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets]
    flags += ["-DDCA_CUDA_SM90A"] if "90a" in targets else []
    objects = [path.parent / f"{source.name}.o" for source in sources]
    commands = [[*flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(lambda command: subprocess.run(command, check=True), commands):
            done.check_returncode()
    subprocess.run([*flags, "-shared", *map(str, objects), "-o", str(path)], check=True)
    return path
