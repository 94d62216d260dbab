"""Python and packages for 64-bit ARM, run by qemu-user. Needs debootstrap and qemu-user."""

import os
import subprocess
import sys
from pathlib import Path

from chroot import PYTHON, SUITE

CPU = "max"  # everything that qemu knows, products of matrices of bytes too


class Arm64Python:
    """A Python in ``folder``, of Debian's packages as they are unpacked, with a wheel and what it needs."""

    def __init__(self, folder: Path) -> None:
        self.root, self.packages = folder / "root", folder / "packages"
        self.python = self.root / "usr" / "bin" / f"python{PYTHON}"
        archives = self.root / "var" / "cache" / "apt" / "archives"
        if not any(archives.glob("*.deb")):
            folder.mkdir(parents=True, exist_ok=True)
            command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", "--include=python3"]
            subprocess.run([*command, SUITE, str(self.root)], check=True, stdout=subprocess.DEVNULL)
        if not self.python.exists():
            for archive in sorted(archives.glob("*.deb")):
                subprocess.run(["dpkg", "-x", str(archive), str(self.root)], check=True)

    def install(self, wheel: Path, constraints: Path) -> None:
        """The wheel and what it needs, as wheels for ARM."""
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--upgrade",
            "--target",
            str(self.packages),
        ]
        command += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
        for platform in ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"):
            command.append(f"--platform={platform}")
        subprocess.run([*command, "--constraint", str(constraints), str(wheel)], check=True)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """That Python with these arguments."""
        variables = {"PYTHONPATH": str(self.packages), "PATH": os.environ["PATH"], "HOME": str(self.root)}
        command = ["qemu-aarch64", "-cpu", CPU, "-L", str(self.root), str(self.python), *arguments]
        return subprocess.run(command, env=variables | environment, capture_output=True, text=True)
