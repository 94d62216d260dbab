"""Installs a wheel where there is Python and no compiler, and does there what README says first.

    python release/test_wheel.py dist/dca_export-0.2.0-py3-none-manylinux_2_28_x86_64.whl MODEL.gguf

Prints what was measured, and fails where that is more than is promised: from the start of pip to the first
token in a minute (all downloads done before), `import` in 0.2 s. Where the machine has other work, the clock
runs on while these wait; what they kept a processor busy for counts then.
"""

import argparse
import re
import resource
import sys
import time
from pathlib import Path

from chroot import Chroot, download

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "chroot"
MOST_SECONDS = 60.0
MOST_IMPORT = 0.2
IMPORT = """
import time
start, busy = time.perf_counter(), time.process_time()
import dca_export, dca_runtime
dca_runtime.Model
print(min(time.perf_counter() - start, time.process_time() - busy))
"""
BOOK = "Nobody knew who had taken the silver spoon. The butler said that it was not him, and looked away.\n"
COMMANDS = (
    'dca-run model.gguf --doc book.txt "Who did it?" -n 16 --temp 0',
    'dca-run model.gguf --doc book.txt "And why?" -n 16 --temp 0',
    "dca-run model.gguf -f book.txt -n 20",
    "dca-bench model.gguf -p 64 -n 8 -r 1",
    "dca-cache list",
    "dca-export --dry-run old.gguf other.gguf",
)


def spent() -> tuple[float, float]:
    """Seconds of the clock, and of processors for all programs that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), children.ru_utime + children.ru_stime


def readme_program() -> str:
    """The first program of README."""
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("model", type=Path, help="a small model that chats, as GGUF")
    arguments = parser.parse_args()
    wheelhouse = BUILD / "wheelhouse"
    download([str(arguments.wheel)], ROOT / "constraints.txt", wheelhouse, sys.executable)
    chroot = Chroot(BUILD / "wheel", BUILD / "debian")
    chroot.copy(wheelhouse, "/root/wheelhouse")
    chroot.copy(arguments.wheel, f"/root/{arguments.wheel.name}")
    chroot.copy(arguments.model, "/root/old.gguf")
    (chroot.folder / "root" / "book.txt").write_text(BOOK * 20, encoding="utf-8")
    (chroot.folder / "root" / "program.py").write_text(readme_program(), encoding="utf-8")
    (chroot.folder / "root" / "import.py").write_text(IMPORT, encoding="utf-8")

    start = spent()

    def since_start() -> tuple[float, float]:
        return tuple(now - then for now, then in zip(spent(), start, strict=True))

    chroot.run("python3 -m venv env")
    chroot.run(f"pip install --quiet --no-index --find-links wheelhouse {arguments.wheel.name}")
    installed = since_start()
    chroot.run("dca-export old.gguf model.gguf")
    chroot.run('dca-run model.gguf -p "Once upon a time" -n 1')
    first_token = since_start()
    for command in (*COMMANDS, "python program.py"):
        chroot.run(command)
        print(f"ran  {command}")
    imports = sorted(float(chroot.run("python import.py").stdout) for _ in range(5))[2]
    for what, (clock, busy) in {"installed": installed, "first token": first_token}.items():
        print(f"{what} after {clock:.1f} s by the clock, {busy:.1f} s of a processor")
    print(f"import {imports:.3f} s")
    if min(first_token) > MOST_SECONDS or imports > MOST_IMPORT:
        sys.exit(f"more than {MOST_SECONDS:.0f} s to the first token, or more than {MOST_IMPORT} s to import")


if __name__ == "__main__":
    main()
