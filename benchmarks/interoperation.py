"""Perplexity of the same files in stock llama.cpp and here, inside the trained context.

    python benchmarks/interoperation.py FILE.gguf ... --text FILE --engine NAME=PROGRAM [--engine ...]

PROGRAM is a llama-perplexity, with arguments after it where wanted. The text's first tokens are cut into
windows; as that program does, each window is read from its start (with bos where the file says so) and the
tokens of its second half are scored.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import dca_runtime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8, long enough for all windows")
    parser.add_argument("--engine", action="append", type=engine, default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--window", type=int, default=1024, help="tokens (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=32, help="how many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    scored = arguments.windows * (arguments.window - arguments.window // 2 - 1)
    title = f"perplexity, {arguments.windows} windows of {arguments.window} tokens, {scored} tokens scored"
    table = Table(title=title)
    headings = [f"{name}{suffix}" for name, _ in arguments.engine for suffix in ("", " → ours")]
    for heading in ("file", "ours", *headings):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    for file in arguments.files:
        mine = ours(file, arguments)
        row = [file.name, f"{mine:.4f}"]
        for _, program in arguments.engine:
            other = theirs(program, file, arguments)
            row += [f"{other:.4f}", f"{mine / other - 1:+.2%}"]
        print(*row, sep="\t", file=sys.stderr)
        table.add_row(*row)
    Console(width=140).print(table)


def engine(text: str) -> tuple[str, list[str]]:
    """NAME=PROGRAM [ARGUMENT ...] as (name, words of the command)."""
    name, _, command = text.partition("=")
    words = shlex.split(command)
    if not words or not Path(words[0]).is_file():
        raise argparse.ArgumentTypeError(f"expected NAME=PATH of a llama-perplexity, got {text!r}")
    return name, words


def ours(file: Path, arguments: argparse.Namespace) -> float:
    window, half = arguments.window, arguments.window // 2
    text = arguments.text.read_text(encoding="utf-8")
    with dca_runtime.Model(file, device="cpu", context=window, threads=arguments.threads) as model:
        if model.scheme is not None and window > model.scheme[0]:
            sys.exit(f"{file}: windows of {window} tokens reach past its first chunk of {model.scheme[0]}")
        ids = np.array(model.tokenize(text, parse_special=False), np.int32)
        if len(ids) < window * arguments.windows:
            sys.exit(f"{arguments.text}: {len(ids)} tokens, {window * arguments.windows} are needed")
        add_bos = bool(model.metadata.get("tokenizer.ggml.add_bos_token", False))
        scores = []
        for start in range(0, window * arguments.windows, window):
            piece = ids[start : start + window].copy()
            if add_bos:
                piece[0] = model.metadata["tokenizer.ggml.bos_token_id"]
            scores.append(model.score(piece)[half:].astype(np.float64))  # entry i scores token i + 1
    return math.exp(np.concatenate(scores).mean())


def theirs(program: list[str], file: Path, arguments: argparse.Namespace) -> float:
    command = [*program, "-m", file, "-f", arguments.text, "--no-escape", "-c", arguments.window]
    command += ["--chunks", arguments.windows, "-t", arguments.threads]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
    if found is None:
        sys.exit(f"{program[0]} failed:\n{done.stderr[-2000:]}")
    return float(found[1])


if __name__ == "__main__":
    main()
