"""What an experiment found, in sentences."""

from typing import Any

from dca_export.evaluate import combined, perplexity, retrieval, sweep
from dca_export.evaluate.results import Results

_FOUND_MOST = 0.9  # from this share on, a model is said to find what is hidden


def verdict(results: Results) -> list[str]:
    """A sentence for each method, or what a sweep recommends."""
    name = results.header["experiment"]
    if name == "sweep":
        return sweep.verdict(results)
    if name == "ablation":
        return _predictions(combined.predictions(results)) + _finds(combined.retrievals(results))
    if name == "perplexity":
        return _predictions(results)
    if name in ("passkey", "needle"):
        return _finds(results)
    return [f"{name}: time and memory are in the table below."]


def _predictions(results: Results) -> list[str]:
    trained = results.header["model"]["context_length"]
    sentences = []
    for entry in perplexity.figures(results):
        if not entry["lengths"]:
            continue
        last = entry["lengths"][-1]
        shown = perplexity.shown(last["nll"], last["interval"]) + _against(results, last)
        at = f"at {last['length']:,} tokens"
        if last["length"] <= trained:
            says = f"reaches perplexity {shown} {at}, within the trained {trained:,}"
        elif last["risen"]:
            says = f"fails beyond the trained {trained:,} tokens: perplexity {shown} {at}"
        else:
            says = f"still predicts {at}, beyond the trained {trained:,}: perplexity {shown}"
        sentences.append(f"{results.label(entry['method'])} {says}.")
    return sentences


def _finds(results: Results) -> list[str]:
    sentences = []
    for method in results.values("method"):
        longest = max(results.values("length", method=method))
        tried = len(list(results.cells(method=method, length=longest)))
        share = retrieval.mean_found(results, method=method, length=longest)
        low, high = retrieval.interval(results, method=method, length=longest) or (0.0, 1.0)
        does = "finds" if share >= _FOUND_MOST else "does not reliably find"
        sentences.append(
            f"{results.label(method)} {does} what is hidden in {longest:,} tokens: "
            f"{share:.0%} of n = {tried} trials (95 % confidence: {low:.0%} to {high:.0%})."
        )
    return sentences + _told_apart(results)


def _against(results: Results, entry: dict[str, Any]) -> str:
    """What a perplexity's difference from the first method's is worth."""
    found = entry.get("against")
    if found is None or found["ratio"] is None:
        return ""
    other = results.label(found["method"])
    if not found["differs"]:
        return f", not told apart from {other}"
    low, high = found["interval"]
    return f", ×{found['ratio']:.3g} that of {other} (95 % confidence: ×{low:.3g} to ×{high:.3g})"


def _told_apart(results: Results) -> list[str]:
    """Which methods' shares at the longest length the trials do not tell from the first one's."""
    first, *others = results.values("method")
    alike = []
    for method in others:
        length = max(results.values("length", method=method))
        found = retrieval.difference(results, method, first, length=length)
        if found is not None and not found.differs:
            alike.append(results.label(method))
    if not alike:
        return []
    return [f"The trials do not tell {', '.join(alike)} from {results.label(first)} there."]
