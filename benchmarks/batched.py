"""Many sequences at once, in turn with llama.cpp's llama-batched-bench on the same files.

    python benchmarks/batched.py FILE.gguf ... --llama-batched-bench PATH [--sequences 1,4,16,64,128]
        [--prompt 1024] [--generate 64] [--shared-prompt] [--bandwidth 3000] [--rounds 3]

Each round runs every number of sequences here and there, one after the other, so that both meet the same
machine; the figures are medians. Limit: what --bandwidth (GB/s) allows, as in dca-bench -B.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument(
        "--llama-batched-bench",
        type=shlex.split,
        metavar="PATH",
        help="with arguments after it where wanted, as '… -kvu'; left out: only ours",
    )
    parser.add_argument("--sequences", default="1,4,16,64,128", metavar="N,…")
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--shared-prompt", action="store_true")
    parser.add_argument("--bandwidth", type=float, default=3000.0, metavar="GB/S")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of both; 0: their own choice")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sequences.split(",")]
    for file in arguments.files:
        print_comparison(file, sizes, arguments)


def print_comparison(file: Path, sizes: list[int], arguments: argparse.Namespace) -> None:
    rounds = [(ours(file, sizes, arguments), theirs(file, sizes, arguments)) for _ in range(arguments.rounds)]
    kind = "one shared prompt" if arguments.shared_prompt else "prompts"
    table = Table(
        title=f"{file.name}, {kind} of {arguments.prompt}, {arguments.generate} decoded, tokens/s in all"
    )
    for heading in (
        "sequences",
        "limit",
        "ours",
        "of limit",
        "llama.cpp",
        "ratio",
        "prefill",
        "llama.cpp",
        "ratio",
    ):
        table.add_column(heading, justify="right")
    for size in sizes:
        mine = [one[size] for one, _ in rounds]
        other = [them[size] for _, them in rounds if size in them]
        decode = statistics.median(result["decode_tokens_per_s"] for result in mine)
        prefill = statistics.median(result["prefill_tokens_per_s"] for result in mine)
        shares = [result["share"] for result in mine if result["share"] is not None]
        share = statistics.median(shares) if shares else None
        row = [
            str(size),
            f"{decode / share:,.0f}" if share else "",
            f"{decode:,.0f}",
            f"{share:.0%}" if share else "",
        ]
        their_decode = statistics.median(speed for _, speed in other) if other else None
        their_prefill = statistics.median(speed for speed, _ in other) if other else None
        row += compared(decode, their_decode) + [f"{prefill:,.0f}"] + compared(prefill, their_prefill)
        table.add_row(*row)
    Console(width=120).print(table)


def compared(mine: float, other: float | None) -> list[str]:
    return ["", ""] if other is None else [f"{other:,.0f}", f"{mine / other:.2f}"]


def ours(file: Path, sizes: list[int], arguments: argparse.Namespace) -> dict[int, dict]:
    command = [Path(sys.executable).with_name("dca-bench"), file, "-B", ",".join(map(str, sizes))]
    command += ["-p", arguments.prompt, "-n", arguments.generate, "--bandwidth", arguments.bandwidth]
    command += ["--attention", arguments.attention, "--device", arguments.device, "--json"]
    command += ["--threads", arguments.threads]
    command += ["--shared-prompt"] if arguments.shared_prompt else []
    return {result["sequences"]: result for result in json.loads(output_of(command))}


def theirs(file: Path, sizes: list[int], arguments: argparse.Namespace) -> dict[int, tuple[float, float]]:
    """Prefill and decode of each number of sequences, tokens/s."""
    program = arguments.llama_batched_bench
    if program is None:
        return {}
    longest = arguments.prompt + arguments.generate
    room = max(sizes) * longest
    if arguments.shared_prompt:
        room = arguments.prompt + max(sizes) * arguments.generate
    command = [*program, "-m", file, "-c", room + 256, "-b", 2048, "-ub", 512]
    command += ["-npp", arguments.prompt, "-ntg", arguments.generate, "-npl", ",".join(map(str, sizes))]
    command += [
        "-fa",
        "on",
        "-ngl",
        99 if arguments.device.startswith("cuda") else 0,
        "--output-format",
        "jsonl",
    ]
    command += ["-t", arguments.threads] if arguments.threads else []
    command += ["-pps"] if arguments.shared_prompt else []
    lines = [json.loads(line) for line in output_of(command).splitlines() if line.startswith("{")]
    return {line["pl"]: (line["speed_pp"], line["speed_tg"]) for line in lines}


def output_of(command: list) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
