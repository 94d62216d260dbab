"""Several kinds of retrieval by length: keys, a value among many, a chain of assignments, counting."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import intervals
from dca_export.evaluate.methods import Method, pairs
from dca_export.evaluate.results import Cell, CellProgress, Results, Table
from dca_export.evaluate.retrieval import Answerer, against, difference, interval, shown_difference
from dca_export.evaluate.tasks.fitting import most_units
from dca_export.evaluate.tasks.recall_tasks import TASKS, Made

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model

TITLE = "Share of the answers found"
ANSWER_TOKENS = max(task.answer_tokens for task in TASKS.values())
_MOST_UNITS = 1 << 15  # names for so many values; 500,000 tokens


def plan(
    methods: Sequence[Method], lengths: Sequence[int], tasks: Sequence[str], trials: int
) -> list[dict[str, Any]]:
    """One cell a method, task, length and trial; methods that share prefill take turns on each prompt.

    Raises InputError for a task not known.
    """
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"task {task!r} is none of {', '.join(TASKS)}")
    return [
        {"method": method.name, "task": task, "length": length, "trial": trial}
        for pair in pairs(methods)
        for task in dict.fromkeys(tasks)
        for length in sorted(set(lengths))
        for trial in range(trials)
        for method in pair
    ]


class Prompts:
    """Builds the prompts for one tokenizer, as long as asked for."""

    def __init__(self, model: "Model", seed: int) -> None:
        self._model = model
        self._seed = seed
        self._units: dict[tuple[str, int, int], int] = {}  # by what was asked: every method asks it again

    def build(self, task: str, length: int, trial: int) -> tuple[list[int], tuple[str, ...]]:
        """Token ids, as many as the task's units fit in ``length``, and the answers.

        What is asked depends on task, length, trial and seed. Raises InputError if the task does not fit.
        """
        asked = task, length, trial
        if asked not in self._units:
            self._units[asked] = most_units(
                lambda units: len(self._ids(self._made(*asked, units))), length, _MOST_UNITS
            )
        if self._units[asked] == 0:
            raise InputError(f"task {task} needs more than {length} tokens")
        made = self._made(*asked, self._units[asked])
        return self._ids(made), made.answers

    def _made(self, task: str, length: int, trial: int, units: int) -> Made:
        number = list(TASKS).index(task)
        return TASKS[task].make(np.random.default_rng([self._seed, number, length, trial]), units)

    def _ids(self, made: Made) -> list[int]:
        return self._model.tokenize(f"{made.task}\n\n{made.body}\n\n{made.question}")


def measure(prompts: Prompts, answerer: Answerer, cell: Cell, progress: CellProgress) -> dict[str, Any]:
    """{"found": the share of the answers that what the model wrote contains as words, "wanted", "answer",
    "tokens"}."""
    ids, wanted = prompts.build(cell["task"], cell["length"], cell["trial"])
    answer = answerer.answer(cell["method"], ids, TASKS[cell["task"]].answer_tokens, progress)
    return {"found": score(answer, wanted), "wanted": list(wanted), "answer": answer, "tokens": len(ids)}


def score(answer: str, wanted: Sequence[str]) -> float:
    """The share of ``wanted`` that occur in the answer as whole words, whatever their case."""
    words = set(re.findall(r"\w+", answer.lower()))
    return sum(word.lower() in words for word in wanted) / len(wanted)


def tables(results: Results) -> list[Table]:
    """One row a method and task: mean share by length; and what methods find more than the first one."""
    methods, tasks, lengths = (results.values(name) for name in ("method", "task", "length"))
    columns = ["tokens", *(f"{n:,}" for n in sorted(lengths))]

    def rows(names: Sequence[str], shown: Callable[..., str]) -> list[list[str]]:
        return [
            [f"{name}, {task}", *(shown(name, task=task, length=n) for n in sorted(lengths))]
            for task in tasks
            for name in names
        ]

    shares = rows(methods, lambda name, **wanted: _shown(results, method=name, **wanted))
    found = [Table(f"{TITLE} (in brackets: 95 % confidence, %, Wilson{_drawn(results)})", columns, shares)]
    if len(methods) > 1:
        more = rows(
            methods[1:],
            lambda name, **wanted: shown_difference(difference(results, name, methods[0], **wanted)),
        )
        about = (
            f"{TITLE}: more than {methods[0]}, %, paired by prompts (in brackets: 95 % confidence; "
            "≈: not told apart)"
        )
        found.append(Table(about, columns, more))
    return found


def _drawn(results: Results) -> str:
    seed = results.settings.get("seed")
    return "" if seed is None else f", seed {seed}"


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, task and length, for JSON; and what it is more than the first method's, of the same
    prompts."""
    methods = results.values("method")
    return [
        {
            "method": method,
            "scheme": results.scheme(method),
            "seed": results.settings.get("seed"),
            "task": task,
            "length": length,
            "trials": len(found),
            "found": float(np.mean(found)),
            "interval": interval(results, method=method, task=task, length=length),
        }
        | (
            {}
            if method == methods[0]
            else {"against": against(results, method, methods[0], task=task, length=length)}
        )
        for method in methods
        for task in results.values("task")
        for length in sorted(results.values("length"))
        if (found := _found(results, method=method, task=task, length=length))
    ]


def draw(results: Results) -> "Figure":
    """Mean share against length with its interval, a line a method and task."""
    from dca_export.evaluate.output import plots

    curves: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float, float]]] = {}
    for entry in figures(results):
        name, at = f"{results.label(entry['method'])}, {entry['task']}", float(entry["length"])
        curves.setdefault(name, []).append((at, entry["found"]))
        bands.setdefault(name, []).append((at, *entry["interval"]))
    head = results.header["model"]
    return plots.lines(
        curves, x="tokens", y="share found", trained=head["context_length"], title=head["file"], bands=bands
    )


def _found(results: Results, **wanted: Any) -> list[float]:
    return [figures_["found"] for _, figures_ in results.cells(**wanted)]


def _shown(results: Results, **wanted: Any) -> str:
    found = _found(results, **wanted)
    if not found:
        return ""
    low, high = intervals.wilson(float(np.mean(found)), len(found))
    return f"{np.mean(found):.0%} ({100 * low:.0f} to {100 * high:.0f})"
