"""What each of the three mechanisms is for (the paper's Fig. 4).

Intra-chunk attention alone keeps perplexity low and loses what lies in other chunks; with inter-chunk
attention the model finds it, at the price of locality; successive-chunk attention gives that back.
"""

from typing import TYPE_CHECKING, Any

from dca_export.evaluate import combined, perplexity, retrieval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.results import Results, Table
from dca_export.evaluate.tasks import passkey
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

figures = combined.figures


def methods(scheme: Scheme | None) -> list[Method]:
    """Plain attention, and one mechanism more from each to the next; scheme None: the file's own."""
    return [Method("plain"), *(Method(name, scheme) for name in ("intra", "intra+inter", "dca"))]


def tables(results: Results) -> list[Table]:
    """The tables of both experiments, by length, each with what tells the methods from the first."""
    prediction, keys = combined.predictions(results), combined.retrievals(results)
    return [
        table
        for table in perplexity.tables(prediction) + passkey.tables(keys)
        if table.columns[0] == "tokens" and table.title != perplexity.WINDOWS
    ]


def draw(results: Results) -> "Figure":
    """Perplexity by window on the left, keys found by length on the right."""
    from dca_export.evaluate.output import plots

    trained = results.header["model"]["context_length"]
    prediction, keys = combined.predictions(results), combined.retrievals(results)
    figure, (left, right) = plots.panels(2, results.header["model"]["file"])
    plots.draw_lines(
        left,
        perplexity.curves(prediction),
        "tokens",
        "perplexity",
        trained,
        log_y=True,
        bands=perplexity.bands(prediction),
    )
    totals: dict[str, list[dict[str, Any]]] = {}
    for entry in retrieval.totals(keys):
        totals.setdefault(keys.label(entry["method"]), []).append(entry)
    found = {name: [(e["length"], 100 * e["found"]) for e in entries] for name, entries in totals.items()}
    bands = {
        name: [(float(e["length"]), *(100 * bound for bound in e["interval"])) for e in entries]
        for name, entries in totals.items()
    }
    plots.draw_lines(right, found, "tokens", "keys found, %", trained, bands=bands)
    return figure
