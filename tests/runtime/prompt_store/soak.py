"""Processes that share one store and are killed at random: run as a program for as many rounds as wanted.

    python tests/runtime/prompt_store/soak.py --rounds 200

Every round starts two processes on one small store. Each reads prompts with common starts through it, checks
each answer against that of an uncached run, and is killed after a random time. After each round the store
must hold nothing but what belongs there, and be within its size.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIMIT = 3_000_000  # bytes: a third of all prompts' pages, so that eviction goes on all the time
PROMPTS = 9
CONTEXT = 3072
GREEDY = 8  # tokens of an answer
WRONG = 3  # exit code of a worker that got another answer


def prompt(number: int) -> list[int]:
    """Prompts of a family share a start of up to 2,000 tokens."""
    start = np.random.default_rng(number % 3).integers(3, 320, 2000)[: 500 + 700 * (number % 3)]
    return [*start.tolist(), *np.random.default_rng(100 + number).integers(3, 320, 800).tolist()]


def answer(session, ids: list[int]) -> list[int]:
    """The greedy answer after ``ids``, of which the session holds a start."""
    logits, tokens = session.eval(ids[session.length :]), []
    for _ in range(GREEDY):
        tokens.append(int(logits.argmax()))
        logits = session.eval(tokens[-1:])
    return tokens


def expected(model) -> list[list[int]]:
    """The answers without a store."""
    answers = []
    for number in range(PROMPTS):
        with model.session(context=CONTEXT) as session:
            answers.append(answer(session, prompt(number)))
    return answers


def work(gguf: str, folder: str, answers: str, seed: int) -> int:
    """A worker's life, until it is killed."""
    import dca_runtime as dca
    from dca_runtime.prompt_store.reading import read_prompt

    wanted, draws = json.loads(Path(answers).read_text()), random.Random(seed)
    with dca.Model(gguf, threads=1) as model, model.session(context=CONTEXT) as session:
        store = dca.PromptStore(folder, limit=LIMIT, warn=lambda line: print(line, file=sys.stderr))
        print("ready", flush=True)
        while True:
            number = draws.randrange(PROMPTS)
            session.truncate(0)
            with store.prompts(session, "soak") as prompts:
                loaded = read_prompt(session, prompts, prompt(number))
                if answer(session, prompt(number)) != wanted[number]:
                    print(f"prompt {number}: another answer, {loaded} tokens loaded", file=sys.stderr)
                    return WRONG
                prompts.save(session)
            print(loaded, flush=True)


def soak(gguf: Path, folder: Path, rounds: int, seed: int = 0) -> dict[str, int]:
    """Figures of so many rounds; AssertionError where something is wrong."""
    import dca_runtime as dca

    draws = random.Random(seed)
    answers = folder / "answers.json"
    with dca.Model(gguf, threads=1) as model:
        answers.write_text(json.dumps(expected(model)))
    figures = {"rounds": 0, "answers": 0, "loaded": 0, "killed": 0, "most_bytes": 0, "most_files": 0}
    for _ in range(rounds):
        command = [sys.executable, __file__, "--work", str(gguf), str(folder / "store"), str(answers)]
        workers = [
            subprocess.Popen(
                [*command, str(draws.randrange(2**31))],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n", worker.stderr.read()
        for worker in workers:
            time.sleep(draws.uniform(0, 0.6))
            worker.send_signal(signal.SIGKILL)
            output, errors = worker.communicate()
            assert worker.returncode == -signal.SIGKILL and errors == "", (worker.returncode, errors)
            loads = [int(line) for line in output.splitlines()]
            figures["killed"] += 1
            figures["answers"] += len(loads)
            figures["loaded"] += sum(load > 0 for load in loads)
        check(folder / "store", figures)
        figures["rounds"] += 1
    return figures


def check(store: Path, figures: dict[str, int]) -> None:
    """Nothing in the store but what belongs there, and no more of it than its size."""
    files = [path for path in store.rglob("*") if path.is_file()]
    pages = [path for path in files if path.suffix == ".pages"]
    known = {"store.json", ".store.json", "lock", "setup.txt", ".setup.txt", "speed.json", ".speed.json"}
    assert {path.name for path in files} - {path.name for path in pages} <= known
    size = sum(path.stat().st_size for path in files)
    # Two processes may each have made room for a file of a sixteenth of the size at the same time.
    assert size <= LIMIT * (1 + 2 / 16) + 100_000, size
    figures["most_bytes"] = max(figures["most_bytes"], size)
    figures["most_files"] = max(figures["most_files"], len(pages))


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        gguf, folder, answers, seed = sys.argv[2:]
        return work(gguf, folder, answers, int(seed))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tiny import Tiny, write_tiny_gguf

    with tempfile.TemporaryDirectory() as name:
        gguf = Path(name) / "tiny.gguf"
        write_tiny_gguf(gguf, Tiny(scheme=(40, 24, 64)))
        print(json.dumps(soak(gguf, Path(name), arguments.rounds, arguments.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
