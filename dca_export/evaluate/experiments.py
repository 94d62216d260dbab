"""The experiments by name: how to show what each of them measured."""

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from dca_export.errors import InputError
from dca_export.evaluate import reach, retrieval
from dca_export.evaluate.results import Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENTS = {  # name -> the module that measures it
    "perplexity": "perplexity",
    "passkey": "tasks.passkey",
    "needle": "tasks.needle",
    "recall": "tasks.recall",
    "density": "density",
    "ablation": "ablation",
    "efficiency": "efficiency",
    "sweep": "sweep",
}


class Experiment(Protocol):
    """What each experiment's module offers; all of it works from the results alone."""

    def tables(self, results: Results) -> list[Table]: ...

    def draw(self, results: Results) -> "Figure": ...

    def figures(self, results: Results) -> Any: ...


def of(results: Results) -> Experiment:
    """The experiment that was run. Raises InputError for one not known here."""
    name = results.header["experiment"]
    if name not in EXPERIMENTS:
        raise InputError(f"{results.path}: holds the unknown experiment {name!r}")
    return importlib.import_module(f"dca_export.evaluate.{EXPERIMENTS[name]}")


def summary(results: Results) -> dict[str, Any]:
    """What was run on what, and its figures, for JSON."""
    name = results.header["experiment"]
    more: dict[str, Any] = {}
    if name in ("passkey", "needle"):
        more = {"totals": retrieval.totals(results)}
    elif name == "perplexity":
        more = {"reach": reach.figures(results)}
    return results.header | {"results": of(results).figures(results)} | more
