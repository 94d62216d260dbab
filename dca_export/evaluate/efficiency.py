"""Time and memory against the prompt's length (the paper's Fig. 3)."""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dca_export.evaluate import running
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Cell, CellProgress, Results, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dca_runtime import Model


def plan(methods: Sequence[Method], lengths: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """One cell a method, length and repeat."""
    return [
        {"method": method.name, "length": length, "repeat": repeat}
        for length in sorted(set(lengths))
        for method in methods
        for repeat in range(repeats)
    ]


def measure(
    model: "Model", cell: Cell, progress: CellProgress, *, decode: int, cache_type: str
) -> dict[str, Any]:
    """Evaluates a prompt of random tokens, then decodes ``decode`` tokens one by one.

    {"first_token_s", "decode_tokens_per_s", "cache_bytes", "scratch_bytes", "weight_bytes"}.
    """
    from dca_runtime.measuring import bench

    length = cell["length"]
    ids = bench.random_tokens(model, length + decode)
    with parse(cell["method"]).session(
        model, context=length + decode, cache_type=cache_type, progress=progress
    ) as session:
        bench.warm_up(session, ids)
        first_token = bench.seconds(session, ids, bench.Test("pp", length, 0))
        decoding = bench.seconds(session, ids, bench.Test("tg", decode, length))
        info, density = session.info, running.density(session)
    return density | {
        "first_token_s": first_token,
        "decode_tokens_per_s": decode / decoding,
        "cache_bytes": info.cache_bytes,
        "scratch_bytes": info.scratch_bytes,
        "weight_bytes": model.info.weight_bytes,
    }


def figures(results: Results) -> list[dict[str, Any]]:
    """One entry a method and length, for JSON: medians over the repeats."""
    return [
        {"method": method, "length": length}
        | {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "density"}
        | ({"density": runs[0]["density"]} if "density" in runs[0] else {})
        for method in results.values("method")
        for length in sorted(results.values("length", method=method))
        for runs in [[figures_ for _, figures_ in results.cells(method=method, length=length)]]
    ]


def memory_mib(entry: dict[str, Any]) -> float:
    """Weights, cache and work space of an entry of ``figures``, MiB."""
    return (entry["weight_bytes"] + entry["cache_bytes"] + entry["scratch_bytes"]) / 2**20


def tables(results: Results) -> list[Table]:
    """One row a length and method."""
    rows = [
        [
            f"{entry['length']:,}",
            entry["method"],
            f"{entry['first_token_s']:,.2f}",
            f"{entry['length'] / entry['first_token_s']:,.0f}",
            f"{entry['decode_tokens_per_s']:,.1f}",
            f"{entry['cache_bytes'] / 2**20:,.0f}",
            f"{entry['scratch_bytes'] / 2**20:,.0f}",
        ]
        for entry in sorted(figures(results), key=lambda entry: entry["length"])
    ]
    columns = ["tokens", "attention", "first token, s", "prefill/s", "decode/s", "cache, MiB", "scratch, MiB"]
    return [Table(f"Time and memory on {results.header['device']}", columns, rows)]


def draw(results: Results) -> "Figure":
    """Time to first token, decode speed and memory beside each other."""
    from dca_export.evaluate.output import plots

    quantities: dict[str, Callable[[dict[str, Any]], float]] = {
        "time to first token, s": lambda entry: entry["first_token_s"],
        "decode, tokens/s": lambda entry: entry["decode_tokens_per_s"],
        "weights + cache + scratch, MiB": memory_mib,
    }
    head = results.header
    figure, panels = plots.panels(len(quantities), f"{head['model']['file']} on {head['device']}")
    for axes, (name, quantity) in zip(panels, quantities.items(), strict=True):
        series: dict[str, list[tuple[float, float]]] = {}
        for entry in figures(results):
            series.setdefault(results.label(entry["method"]), []).append((entry["length"], quantity(entry)))
        plots.draw_lines(axes, series, "tokens", name, head["model"]["context_length"])
    return figure
