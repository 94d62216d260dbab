"""What each of the three mechanisms is for (the paper's Fig. 4).

Intra-chunk attention alone keeps perplexity low and loses what lies in other chunks; with inter-chunk
attention the model finds it, at the price of locality; successive-chunk attention gives that back.
"""

from typing import TYPE_CHECKING

from dca_export.evaluate import combined, passkey, perplexity, retrieval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.results import Results, Table
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

figures = combined.figures


def methods(scheme: Scheme | None) -> list[Method]:
    """Plain attention, and one mechanism more from each to the next; scheme None: the file's own."""
    return [Method("plain"), *(Method(name, scheme) for name in ("intra", "intra+inter", "dca"))]


def tables(results: Results) -> list[Table]:
    """The tables of both experiments, by length."""
    prediction = perplexity.tables(combined.predictions(results))
    return prediction[:1] + passkey.tables(combined.retrievals(results))[:1]


def draw(results: Results) -> "Figure":
    """Perplexity by window on the left, keys found by length on the right."""
    from dca_export.evaluate import plots

    trained = results.header["model"]["context_length"]
    figure, (left, right) = plots.panels(2, results.header["model"]["file"])
    plots.draw_lines(
        left, perplexity.curves(combined.predictions(results)), "tokens", "perplexity", trained, log_y=True
    )
    keys = combined.retrievals(results)
    found = {
        keys.label(method): [
            (length, 100 * retrieval.mean_found(keys, method=method, length=length))
            for length in sorted(keys.values("length", method=method))
        ]
        for method in keys.values("method")
    }
    plots.draw_lines(right, found, "tokens", "keys found, %", trained)
    return figure
