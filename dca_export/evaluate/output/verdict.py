"""What an experiment found, in sentences."""

from typing import Any

from dca_export.evaluate import combined, efficiency, perplexity, reach, retrieval, sweep
from dca_export.evaluate.results import Results
from dca_export.evaluate.tasks import recall

_FOUND_MOST = 0.9  # from this share on, a model is said to find what is hidden


def verdict(results: Results) -> list[str]:
    """A sentence for each method, or what a sweep recommends."""
    name = results.header["experiment"]
    if not any(results.cells()):
        return [f"Nothing of {name} has been measured yet."]
    if name == "sweep":
        return sweep.verdict(results)
    if name == "ablation":
        return _predictions(combined.predictions(results)) + _finds(combined.retrievals(results))
    if name == "perplexity":
        return _predictions(results)
    if name == "recall":
        return _recalls(results)
    if name == "efficiency":
        return _costs(results)
    return _finds(results)


def _predictions(results: Results) -> list[str]:
    sentences = []
    for entry in perplexity.figures(results):
        if not entry["lengths"]:
            continue
        last = entry["lengths"][-1]
        shown = perplexity.shown(last["nll"], last["interval"]) + _against(results, last)
        at = f"at {last['length']:,} tokens"
        says = f"{_says(results, entry['method'], last).format(at=at, shown=shown)}"
        sentences.append(f"{results.label(entry['method'])} {says}.")
    return sentences + _beside_trained(results)


def _says(results: Results, method: str, last: dict[str, Any]) -> str:
    """What became of the perplexity at the longest length; with places for that length and the figure."""
    trained = results.header["model"]["context_length"]
    if last["length"] <= trained:
        return f"reaches perplexity {{shown}} {{at}}, within the trained {trained:,}"
    broken = reach.breaks_at(results, method)
    if broken == 0:
        return "fails from the first token on: perplexity {shown} {at}"
    if not last["risen"]:
        return f"still predicts {{at}}, beyond the trained {trained:,}: perplexity {{shown}}"
    since = "" if broken is None else f", where it fails from about {broken:,} on"
    if not last["perplexity"] <= reach.limit(results):
        return f"fails beyond the trained {trained:,} tokens: perplexity {{shown}} {{at}}{since}"
    within = perplexity.shown(perplexity.within_trained(results, method))
    rises = f"rises from perplexity {within} within the trained {trained:,} tokens"
    return f"{rises} to {{shown}} {{at}}{since}"


def _beside_trained(results: Results) -> list[str]:
    """What long contexts cost beside short ones, on the same text."""
    sentences = []
    for method in results.values("method"):
        length = max(results.values("length", method=method), default=0)
        found = reach.beside_trained(results, method, length)
        if found is not None:
            within, ratio = found
            first = results.label(results.values("method")[0])
            low, high = ratio.interval
            times = f"×{ratio.value:.3f} (95 % confidence: ×{low:.3f} to ×{high:.3f})"
            sentences.append(
                f"On the same text, {results.label(method)} in contexts of {length:,} tokens has {times} the "
                f"perplexity of {first} in contexts of {within:,}."
            )
    return sentences


def _finds(results: Results) -> list[str]:
    sentences = []
    for method in results.values("method"):
        lengths = results.values("length", method=method)
        if not lengths:  # of density, which reads texts first
            continue
        longest = max(lengths)
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
    methods = [method for method in results.values("method") if results.values("length", method=method)]
    if not methods:
        return []
    first, *others = methods
    alike = []
    for method in others:
        length = max(results.values("length", method=method))
        found = retrieval.difference(results, method, first, length=length)
        if found is not None and not found.differs:
            alike.append(results.label(method))
    if not alike:
        return []
    return [f"The trials do not tell {', '.join(alike)} from {results.label(first)} there."]


def _recalls(results: Results) -> list[str]:
    """Of each method and task, at the longest length."""
    sentences = []
    length = max(results.values("length"))
    for entry in recall.figures(results):
        if entry["length"] == length:
            low, high = entry["interval"]
            sentences.append(
                f"{results.label(entry['method'])} finds {entry['found']:.0%} of what task {entry['task']} "
                f"asks for in {length:,} tokens: n = {entry['trials']} (95 % confidence: {low:.0%} to "
                f"{high:.0%})."
            )
    return sentences


def _costs(results: Results) -> list[str]:
    """Time and memory at the longest prompt, the others' as multiples of the first method's."""
    length = max(results.values("length"))
    entries = [entry for entry in efficiency.figures(results) if entry["length"] == length]
    if not entries:
        return []
    first, *others = entries
    name = results.label(first["method"])
    sentences = [
        f"{name} reads {length:,} tokens in {first['first_token_s']:.2f} s, then decodes "
        f"{first['decode_tokens_per_s']:,.1f} tokens/s, in {efficiency.memory_mib(first):,.0f} MiB with the "
        "weights."
    ]
    for other in others:
        time, speed, memory = (
            get(other) / get(first)
            for get in (
                lambda entry: entry["first_token_s"],
                lambda entry: entry["decode_tokens_per_s"],
                efficiency.memory_mib,
            )
        )
        sentences.append(
            f"{results.label(other['method'])} takes ×{time:.2f} that time to the first token, decodes at "
            f"×{speed:.2f} that speed, and takes ×{memory:.2f} the memory."
        )
    return sentences
