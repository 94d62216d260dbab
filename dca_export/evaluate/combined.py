"""Perplexity and passkeys of the same methods: what ``ablation`` and ``sweep`` are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.evaluate import perplexity, retrieval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.results import Cell, CellProgress, Results
from dca_export.evaluate.tasks import passkey

if TYPE_CHECKING:
    from dca_runtime import Model

PREDICTION, RETRIEVAL = "perplexity", "passkey"  # the cells' field "part"


def plan(
    methods: Sequence[Method],
    lengths: Sequence[int],
    key_lengths: Sequence[int],
    depths: Sequence[int],
    trials: int,
) -> list[dict[str, Any]]:
    """The cells of both experiments: one pass a method for perplexity, then the passkeys."""
    predictions = perplexity.plan(methods, lengths, stride=0)
    trials_ = retrieval.plan(methods, key_lengths, depths, trials)
    return [{"part": PREDICTION} | cell for cell in predictions] + [
        {"part": RETRIEVAL} | cell for cell in trials_
    ]


@dataclass(frozen=True)
class Runner:
    """Measures cells of both experiments with what they share."""

    model: "Model"
    ids: np.ndarray  # of the text
    window: int
    cache_type: str
    prompts: passkey.Prompts
    answerer: retrieval.Answerer

    def measure(self, cell: Cell, progress: CellProgress) -> dict[str, Any]:
        """The figures of either experiment."""
        if cell["part"] == RETRIEVAL:
            return passkey.measure(self.prompts, self.answerer, cell, progress)
        return perplexity.measure(
            self.model,
            self.ids,
            cell,
            progress,
            window=self.window,
            stride=0,
            cache_type=self.cache_type,
        )


def predictions(results: Results) -> Results:
    """The part that ``perplexity`` understands."""
    return results.part(part=PREDICTION)


def retrievals(results: Results) -> Results:
    """The part that ``passkey`` understands."""
    return results.part(part=RETRIEVAL)


def figures(results: Results) -> dict[str, Any]:
    """Both parts, for JSON."""
    return {
        PREDICTION: perplexity.figures(predictions(results)),
        RETRIEVAL: passkey.figures(retrievals(results)),
        f"{RETRIEVAL}_totals": retrieval.totals(retrievals(results)),
    }
