"""Needle in a haystack: a sentence hidden in the user's own text, asked for at the end (paper, Fig. 6)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import retrieval
from dca_export.evaluate.methods import Method, pairs
from dca_export.evaluate.results import Cell, CellProgress, Results, Table
from dca_export.evaluate.retrieval import Answerer
from dca_export.evaluate.tasks.sentences import between_sentences
from dca_export.evaluate.text import Text

if TYPE_CHECKING:
    from dca_runtime import Model

# The sentence, question and answer that needle tests have used since Kamradt's of 2023.
NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = "What is the best thing to do in San Francisco?"
KEYWORDS = ("sandwich", "Dolores Park")

TITLE = "Needles found"
ANSWER_TOKENS = 48
_MARK = "\x02haystack\x03"  # where the text goes in the rendered template; no text contains it
# Of a text, from its beginning: 4 MiB are 20 novels. More only where a prompt is longer.
_HAYSTACK_CHARACTERS = 4 << 20
_CHARACTERS_A_TOKEN = 16  # more than ordinary text has in any tokenizer


def plan(
    methods: Sequence[Method], lengths: Sequence[int], depths: Sequence[int], trials: int
) -> list[dict[str, Any]]:
    """The cells of ``retrieval.plan``, ordered so that those in one haystack share its start."""
    cells = retrieval.plan(methods, lengths, depths, trials)
    order = {method.name: index for index, pair in enumerate(pairs(methods)) for method in pair}
    return sorted(cells, key=lambda cell: (order[cell["method"]], cell["trial"]))


def haystack(text: Text, longest: int) -> str:
    """As much of the text's beginning as prompts of up to ``longest`` tokens are cut from."""
    return text.start(max(_HAYSTACK_CHARACTERS, _CHARACTERS_A_TOKEN * longest))[0]


class Prompts:
    """Builds the prompts: the model's chat template if it has one, around text, needle and question."""

    def __init__(
        self,
        model: "Model",
        text: str,
        needle: str,
        question: str,
        seed: int,
        frame: tuple[list[int], list[int]] | None = None,
    ) -> None:
        """frame: ids before and after the text, in place of the chat template and the question."""
        self._model = model
        self._text = np.array(model.tokenize(text, add_special=False, parse_special=False), np.int32)
        self._sentence = needle
        self._needle = model.tokenize(f" {needle}", add_special=False, parse_special=False)
        self._seed = seed
        self._before, self._after = frame or _frame(model, question)

    def build(self, length: int, depth: int, trial: int) -> list[int]:
        """Token ids of a prompt of ``length`` tokens, the needle after about ``depth`` percent of the text.

        The needle stands between sentences. The first trial reads the text from its beginning, others
        from a place that depends on the seed. Raises InputError if the text is too short.
        """
        frame = len(self._before) + len(self._needle) + len(self._after)
        room = length - frame
        spare = len(self._text) - room
        if room <= 0 or spare < 0:
            raise InputError(f"{length} tokens need a text of {max(room, 1)}, it has {len(self._text)}")
        start = int(np.random.default_rng([self._seed, trial]).integers(0, spare + 1)) if trial else 0
        hay = self._text[start : start + room].tolist()
        cut = between_sentences(self._model.detokenize, hay, round(room * depth / 100))
        needle = self._needle
        if cut.space:  # the text's own space stands before the needle: there is none after it
            needle = self._model.tokenize(self._sentence + cut.space, add_special=False, parse_special=False)
            hay = hay[: room + len(self._needle) - len(needle)]
        return [*self._before, *hay[: cut.at], *needle, *hay[cut.at :], *self._after]


def measure(
    prompts: Prompts, keywords: Sequence[str], answerer: Answerer, cell: Cell, progress: CellProgress
) -> dict[str, Any]:
    """{"found": share of the keywords that the answer contains, "answer", "tokens"}."""
    ids = prompts.build(cell["length"], cell["depth"], cell["trial"])
    answer = answerer.answer(cell["method"], ids, ANSWER_TOKENS, progress)
    hits = [keyword.lower() in answer.lower() for keyword in keywords]
    return {"found": sum(hits) / len(hits), "answer": answer, "tokens": len(ids)}


def tables(results: Results) -> list[Table]:
    """Needles found by length and depth."""
    return retrieval.tables(results, TITLE)


figures = retrieval.figures
draw = retrieval.draw


def _frame(model: "Model", question: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the text."""
    from dca_runtime.text.chat import TEMPLATE_KEY

    if TEMPLATE_KEY not in model.metadata:
        ask = f"\n\nQuestion: {question}\nAnswer:"
        return model.tokenize(""), model.tokenize(ask, add_special=False)
    prompt = model.apply_chat_template([{"role": "user", "content": f"{_MARK}\n\n{question}"}])
    before, mark, after = prompt.partition(_MARK)
    if not mark:
        raise InputError(f"{model.path}: its chat template leaves out what the user says")
    return model.tokenize(before, add_special=False), model.tokenize(after, add_special=False)
