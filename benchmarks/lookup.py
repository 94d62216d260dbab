"""Guessing ahead (generate's speculate="lookup") against one token a step: the same texts, and how fast.

    python benchmarks/lookup.py FILE.gguf [--text FILE] [--prompts 50] [--tokens 128] [--rounds 3]
        [--device cpu] [--threads 0] [--json FILE]

Half of the prompts ask to copy a passage of the text, and their answers have begun to (quoting: a small model
needs that to do what it is asked); half ask something about a passage or about nothing of it (other).
Every prompt is answered greedily both ways, in turn, as often as there are rounds; of each the fastest
counts, so that what else the machine does falls out. Time is all but the reading of the prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import dca_runtime as dca
from dca_export.evaluate.text import Text

COPY = (
    "Copy this text word for word:\n\n{0}",
    "{0}\n\nRepeat the text above exactly, without changes.",
)
OTHER = (
    "{0}\n\nWhat is this text about? Answer in your own words.",
    "Write a short story about a {1} and a lighthouse.",
    "Explain to a child how a {1} works.",
    "{0}\n\nWrite three questions that somebody could ask after reading this.",
    "Write a poem about a {1}.",
)
THINGS = (
    "kettle",
    "bridge",
    "clock",
    "garden",
    "river",
    "piano",
    "bicycle",
    "windmill",
    "telescope",
    "ferry",
)
PASSAGE = 900  # characters
BEGUN = 60  # characters of a copy that the prompt ends with


@dataclass
class Measured:
    kind: str
    prompt_tokens: int
    tokens: int  # generated
    same: bool  # both ways
    off: float  # tokens/s
    lookup: float
    guessed: int
    right: int
    tie: float | None  # where the texts part: how far apart the logits of the two tokens lie


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--text", type=Path, help="default: CPython's documentation")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with dca.Model(arguments.file, arguments.device, threads=arguments.threads) as model:
        asked = track(prompts(model, Text(arguments.text), arguments.prompts), "measuring", transient=True)
        found = [measured(model, kind, ids, arguments) for kind, ids in asked]
        print_tables(f"{arguments.file.name}, {model.info.device}", found)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")


def prompts(model: dca.Model, text: Text, count: int) -> list[tuple[str, list[int]]]:
    """(kind, token ids): each second one quotes; passages lie all over the text."""
    start, _ = text.start(PASSAGE * count * 4)
    step = max((len(start) - PASSAGE) // count, 1)
    made = []
    for index in range(count):
        at = start.find("\n", index * step) + 1
        passage = " ".join(start[at : at + PASSAGE].split()).rpartition(" ")[0]
        kind, templates = ("quoting", COPY) if index % 2 == 0 else ("other", OTHER)
        template = templates[index // 2 % len(templates)]
        asked = template.format(passage, THINGS[index // 2 % len(THINGS)])
        ids = model.tokenize(
            model.apply_chat_template([{"role": "user", "content": asked}]), add_special=False
        )
        if kind == "quoting":
            begun = passage[:BEGUN].rpartition(" ")[0]
            ids += model.tokenize(begun, add_special=False, parse_special=False)
        made.append((kind, ids))
    return made


def measured(model: dca.Model, kind: str, ids: list[int], arguments: argparse.Namespace) -> Measured:
    seconds: dict[str, list[float]] = {"off": [], "lookup": []}
    made: dict[str, dca.Generation] = {}
    with model.session(context=len(ids) + arguments.tokens) as session:
        for number in range(arguments.rounds):
            for speculate in ("off", "lookup") if number % 2 == 0 else ("lookup", "off"):
                # The prompt is read once; what is timed begins behind its last token.
                session.truncate(min(session.length, len(ids) - 1))
                generation = model.generate(
                    ids[session.length :],
                    arguments.tokens,
                    session,
                    temperature=0.0,
                    repeat_penalty=1.0,
                    speculate=speculate,
                )
                next(generation, None)
                began, first = time.perf_counter(), len(generation.ids)
                for _ in generation:
                    pass
                spent = time.perf_counter() - began
                seconds[speculate].append(spent / max(len(generation.ids) - first, 1))
                made[speculate] = generation
    off, lookup = made["off"], made["lookup"]
    assert lookup.guesses is not None
    return Measured(
        kind,
        len(ids),
        len(off.ids),
        off.ids == lookup.ids and off.text == lookup.text,
        1 / max(min(seconds["off"]), 1e-9),
        1 / max(min(seconds["lookup"]), 1e-9),
        lookup.guesses.guessed,
        lookup.guesses.right,
        parting(model, ids, off.ids, lookup.ids),
    )


def parting(model: dca.Model, ids: list[int], one: list[int], other: list[int]) -> float | None:
    """How far apart the logits of the first two tokens lie in which the answers to a prompt differ."""
    first = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        return None
    with model.session(context=len(ids) + first) as session:
        logits = session.eval(ids + one[:first])
    return abs(float(logits[one[first]] - logits[other[first]]))


def print_tables(title: str, found: list[Measured]) -> None:
    table = Table(title=f"{title}: tokens/s, guessing ahead against one token a step")
    for heading in (
        "prompts",
        "number",
        "same text",
        "off",
        "lookup",
        "ratio",
        "least ratio",
        "guesses right",
    ):
        table.add_column(heading, justify="left" if heading == "prompts" else "right")
    for kind in ("quoting", "other"):
        group = [one for one in found if one.kind == kind and one.tokens > 8]
        if not group:
            continue
        ratios = [one.lookup / one.off for one in group]
        # Of all tokens over all time, not the mean of speeds.
        off, lookup = (
            sum(one.tokens for one in group) / sum(one.tokens / getattr(one, way) for one in group)
            for way in ("off", "lookup")
        )
        guessed = sum(one.guessed for one in group)
        table.add_row(
            kind,
            str(len(group)),
            str(sum(one.same for one in group)),
            f"{off:.1f}",
            f"{lookup:.1f}",
            f"{lookup / off:.2f} (median {statistics.median(ratios):.2f})",
            f"{min(ratios):.2f}",
            f"{sum(one.right for one in group) / max(guessed, 1):.0%} of {guessed}",
        )
    Console().print(table)
    print(f"the same text both ways: {sum(one.same for one in found)} of {len(found)} prompts")
    for number, one in enumerate(found, 1):
        if one.tie is not None:
            print(
                f"  prompt {number}: the logits of the tokens at which the texts part lie {one.tie:.4f} apart"
            )


if __name__ == "__main__":
    main()
