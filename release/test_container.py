"""Runs the steps of release/Containerfile where no container engine is, and asks the server something.

    python release/test_container.py dist/dca_export-0.2.0-py3-none-manylinux_2_28_x86_64.whl MODEL.gguf

What a container engine does beside these steps (layers, users' namespaces, ports) is not tried by it.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from chroot import Chroot, download

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "chroot"
PORT = 8080
SECONDS = 60


def steps(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest of its line) in order."""
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("model", type=Path, help="a small model, as GGUF")
    arguments = parser.parse_args()
    context = ROOT / "build" / "container"
    download([f"{arguments.wheel}[serve]"], ROOT / "constraints.txt", context / "wheelhouse", sys.executable)
    chroot = Chroot(BUILD / "container", BUILD / "debian")
    chroot.copy(arguments.model, "/models/model.gguf")
    user, variables, entry = "root", "", []
    for instruction, rest in steps((ROOT / "release" / "Containerfile").read_text(encoding="utf-8")):
        if instruction == "COPY":
            source, target = rest.split()
            chroot.copy(context / source, target)
        elif instruction == "RUN":
            # No network: a namespace with nothing in it.
            subprocess.run(["unshare", "--net", *chroot.command(rest)], check=True)
        elif instruction == "USER":
            user = rest
        elif instruction == "ENV":
            variables += f"export {rest}; "
        elif instruction == "ENTRYPOINT":
            entry = json.loads(rest)
        elif instruction == "HEALTHCHECK":
            health = json.loads(rest.split("CMD", 1)[1])
        elif instruction not in ("FROM", "VOLUME", "EXPOSE"):
            sys.exit(f"Containerfile: {instruction} is not run by this test")

    def as_user(words: list[str]) -> list[str]:
        return chroot.command(
            f"{variables}exec setpriv --reuid={user} --regid={user} --init-groups {shlex.join(words)}"
        )

    server = subprocess.Popen(as_user([*entry, "/models/model.gguf"]), stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + SECONDS
        while subprocess.run(as_user(health), capture_output=True).returncode != 0:
            if time.monotonic() > deadline or server.poll() is not None:
                sys.exit("the server is not healthy")
            time.sleep(0.5)
        body = json.dumps({"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8})
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/v1/chat/completions",
            body.encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            print("the server answers:", json.load(answer)["choices"][0]["message"]["content"])
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
