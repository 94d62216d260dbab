"""Passkey retrieval: a five-digit number hidden in filler text, asked for at the end.

The task of Mohtashami and Jaggi (2023), as An et al. use it (Fig. 5 and 7, appendix A.1).
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import retrieval
from dca_export.evaluate.results import Cell, CellProgress, Results, Table
from dca_export.evaluate.retrieval import Answerer
from dca_export.evaluate.tasks.fitting import most_units

if TYPE_CHECKING:
    from dca_runtime import Model

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
KEY = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"

TITLE = "Passkeys found"
ANSWER_TOKENS = 10  # five digits are five tokens at most in the tokenizers in use, after a space or two
_MOST_FILLERS = 1 << 20  # a tokenizer to which more of them are nothing is none


class Prompts:
    """Builds the prompts for one tokenizer, as long as asked for."""

    def __init__(self, model: "Model", seed: int) -> None:
        self._model = model
        self._seed = seed
        self._fillers: dict[tuple[int, int, int], int] = {}  # by what was asked: every method asks it again

    def build(self, length: int, depth: int, trial: int) -> tuple[list[int], str]:
        """Token ids of a prompt, and the key hidden in it.

        The prompt has as many fillers as fit in ``length`` tokens with this key: how many tokens a key or the
        joints between pieces take depends on the tokenizer. ``depth`` is the percentage of the filler that
        comes before the key; the key depends on all three numbers and the seed. Raises InputError if the
        task does not fit in the length.
        """
        asked = length, depth, trial
        key = str(np.random.default_rng([self._seed, *asked]).integers(10_000, 100_000))

        def prompt(fillers: int) -> list[int]:
            return self._ids(fillers, round(fillers * depth / 100), key)

        if asked not in self._fillers:
            self._fillers[asked] = most_units(lambda fillers: len(prompt(fillers)), length, _MOST_FILLERS)
        if self._fillers[asked] == 0:
            raise InputError(f"a passkey prompt needs more than {length} tokens")
        return prompt(self._fillers[asked]), key

    def _ids(self, fillers: int, before: int, key: str) -> list[int]:
        parts = [" ".join([FILLER] * before), KEY.format(key=key), " ".join([FILLER] * (fillers - before))]
        return self._model.tokenize(TASK + "\n".join(part for part in parts if part) + "\n" + QUESTION)


def measure(prompts: Prompts, answerer: Answerer, cell: Cell, progress: CellProgress) -> dict[str, Any]:
    """{"found": 1 if the first number of the answer is the key, else 0, "key", "answer", "tokens"}."""
    ids, key = prompts.build(cell["length"], cell["depth"], cell["trial"])
    answer = answerer.answer(cell["method"], ids, ANSWER_TOKENS, progress)
    number = re.search(r"\d+", answer)
    found = number is not None and number[0] == key
    return {"found": int(found), "key": key, "answer": answer, "tokens": len(ids)}


def tables(results: Results) -> list[Table]:
    """Keys found by length and depth."""
    return retrieval.tables(results, TITLE)


figures = retrieval.figures
draw = retrieval.draw
