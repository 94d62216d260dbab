"""How far a method predicts: where it breaks, and what reading all at once costs beside reading within what
the model was trained to."""

import math
from typing import Any

from dca_export.evaluate import perplexity, perplexity_bars
from dca_export.evaluate.results import Results

# Times the best perplexity within the trained length: a text's parts differ less than that.
FAILS = 2.0


def limit(results: Results) -> float:
    """The perplexity from which on a method is said to fail: FAILS times the lowest that any method has
    within the trained length; infinite if none was measured there."""
    within = [perplexity.within_trained(results, method) for method in results.values("method")]
    known = (perplexity.exp(nll) for nll in within if nll is not None and not math.isnan(nll))
    return FAILS * min(known, default=math.inf)


def breaks_at(results: Results, method: str) -> int | None:
    """The first token of the first window from which on every window fails; None where the last one does
    not, or nothing was read in windows."""
    most = limit(results)
    start = None
    for first, _, nll in reversed(perplexity.windows_of(results, method)):
        if perplexity.exp(nll) <= most:  # False for NaN
            break
        start = first
    return start


def beside_trained(results: Results, method: str, length: int) -> tuple[int, perplexity_bars.Ratio] | None:
    """What contexts of a length, sliding over a text, give as a multiple of what the first method gives on
    the same text in contexts of the longest length within the trained one, and that length.

    None for one pass, within the trained length, and where no shorter contexts were measured.
    """
    first, trained = results.values("method")[0], results.header["model"]["context_length"]
    within = [n for n in results.values("length", method=first) if n <= trained]
    if not within or length <= trained or not any(results.cells(method=method, length=length)):
        return None
    one = perplexity_bars.at_length(results, method, length)
    ratio = perplexity_bars.compared(one, perplexity_bars.at_length(results, first, max(within)))
    return None if ratio is None else (max(within), ratio)


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method, for JSON."""
    entries = []
    for method in results.values("method"):
        lengths = sorted(results.values("length", method=method))
        beside = {length: beside_trained(results, method, length) for length in lengths}
        entries.append(
            {
                "method": method,
                "breaks_at": breaks_at(results, method),
                "beside_trained": [
                    {
                        "length": length,
                        "contexts_of": found[0],
                        "ratio": found[1].value,
                        "interval": found[1].interval,
                        "differs": found[1].differs,
                    }
                    for length, found in beside.items()
                    if found is not None
                ],
            }
        )
    return entries
