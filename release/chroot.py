"""An empty Debian to install things in: Python with venv, and no compiler. Needs root and debootstrap."""

import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"  # its Python is 3.11, the oldest that dca-export runs on
PYTHON = "3.11"
PACKAGES = ("python3", "python3-venv")
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "clang++", "make", "cmake")


class Chroot:
    """A copy of such a system in ``folder``, which is replaced."""

    def __init__(self, folder: Path, base: Path) -> None:
        if not (base / "etc" / "debian_version").exists():
            base.parent.mkdir(parents=True, exist_ok=True)
            command = [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                SUITE,
                str(base),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(folder)], check=True)
        self.folder = folder
        for program in COMPILERS:
            if self.run(f"command -v {program}", check=False).returncode == 0:
                raise SystemExit(f"{folder} has {program}, and should have no compiler")

    def run(self, command: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        """A shell command in there, in /root, with nothing of this environment."""
        return subprocess.run(self.command(command), check=check, capture_output=True, text=True, **options)

    def command(self, command: str) -> list[str]:
        environment = [
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
            "PATH=/root/env/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        ]
        # A mount namespace of its own: what is mounted in it is gone with it.
        inside = (
            f"mount -t proc proc {self.folder}/proc && mount --rbind /dev {self.folder}/dev && "
            f'exec chroot {self.folder} "$@"'
        )
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            inside,
            "sh",
            *environment,
            "sh",
            "-euc",
            f"cd /root; {command}",
        ]

    def copy(self, source: Path, to: str) -> None:
        """A file or a folder, to the absolute path ``to`` in there."""
        target = self.folder / to.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def download(requirements: list[str], constraints: Path, wheelhouse: Path, python: str) -> None:
    """What ``requirements`` install, for that system, as wheels in ``wheelhouse``."""
    command = [
        python,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary=:all:",
        f"--python-version={PYTHON}",
    ]
    command += ["--dest", str(wheelhouse), "--constraint", str(constraints), *requirements]
    subprocess.run(command, check=True, env=os.environ)
