"""What an experiment found, in sentences."""

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
        shown, at = perplexity.shown(last["nll"]), f"at {last['length']:,} tokens"
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
        does = "finds" if share >= _FOUND_MOST else "does not reliably find"
        sentences.append(
            f"{results.label(method)} {does} what is hidden in {longest:,} tokens: "
            f"{share:.0%} of n = {tried} trials."
        )
    return sentences
