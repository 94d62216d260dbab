"""What benchmarks/results.py measured, as tables, pictures, one HTML page, and in docs/results.md.

A page takes what was measured where it says so, between two comments:

    <!-- results: perplexity table 1 -->    the first table of the part; without a number, all of its tables
    <!-- results: perplexity words -->      what `dca-eval report` says of it
    <!-- results: perplexity setting -->    the model, on what device it ran, and when
    <!-- end -->

Everything else of the page is written by hand and stays.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dca_export import strict_json
from dca_export.evaluate import experiments
from dca_export.evaluate.intervals import wilson
from dca_export.evaluate.output.verdict import verdict
from dca_export.evaluate.results import Results, read_results

Table = list[Sequence[str]]
Tables = Callable[[Any], list[Table]]
"""The tables of an experiment's figures, given as ``experiments.summary`` has them in JSON."""

_MARK = re.compile(
    r"<!-- results: (?P<name>\S+) (?P<what>table|words|setting)(?: (?P<number>\d+))? -->\n.*?<!-- end -->",
    re.DOTALL,
)


def write(out: Path, parts: Mapping[str, Tables]) -> dict[str, Results]:
    """out/NAME.json and NAME.png of each part that was measured, report.html and tables.md of all.

    Returns the parts' results. Needs matplotlib, which measuring does not.
    """
    from dca_export.evaluate.output import plots, report

    measured = {
        name: read_results(out / f"{name}.jsonl") for name in parts if (out / f"{name}.jsonl").exists()
    }
    for name, results in measured.items():
        (out / f"{name}.json").write_text(_json(results), encoding="utf-8")
        plots.save(experiments.of(results).draw(results), out / f"{name}.png")
    (out / "report.html").write_text(report.page(list(measured.values())), encoding="utf-8")
    sections = [f"## {name}\n\n{_setting(r)}\n\n{_tables(parts[name], r)}\n" for name, r in measured.items()]
    (out / "tables.md").write_text("\n".join(sections), encoding="utf-8")
    return measured


def fill(page: str, measured: Mapping[str, Results], parts: Mapping[str, Tables]) -> tuple[str, list[str]]:
    """The page with what was measured, and the names of parts that it asks for and nobody measured: these
    stay as they are. Raises ValueError for a part or a table that is not known."""
    missing: list[str] = []

    def section(found: re.Match[str]) -> str:
        name, what, number = found["name"], found["what"], found["number"]
        if name not in parts:
            raise ValueError(f"results: {name}: expected one of {', '.join(parts)}")
        if name not in measured:
            missing.append(name)
            return found[0]
        results = measured[name]
        shown = {"words": _words, "setting": _setting}.get(what)
        text = shown(results) if shown else _tables(parts[name], results, number and int(number))
        return f"{found[0].splitlines()[0]}\n{text}\n<!-- end -->"

    return _MARK.sub(section, page), list(dict.fromkeys(missing))


def _words(results: Results) -> str:
    return "\n".join(f"- {sentence}" for sentence in verdict(results))


def _setting(results: Results) -> str:
    """The model and, of each sitting, the device and the day."""
    sittings = [results.header, *results.sittings]
    on = list(dict.fromkeys(f"{each['device']}, {each['started'][:10]}" for each in sittings))
    return f"{results.header['model']['file']} on {'; '.join(on)}"


def _tables(tables: Tables, results: Results, number: int | None = None) -> str:
    found = tables(json.loads(_json(results)))
    if number is not None:
        if not 1 <= number <= len(found):
            raise ValueError(f"results: table {number}: expected 1 to {len(found)}")
        found = [found[number - 1]]
    return "\n\n".join(map(_markdown, found))


def _json(results: Results) -> str:
    """What was found; null for what is not finite."""
    return strict_json.dumps(experiments.summary(results), indent=2)


def _markdown(table: Table) -> str:
    head, *rows = table
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


# The tables of docs/results.md, by kind of experiment.


def ppl(value: float | None) -> str:
    """A perplexity as the tables show it; JSON has null where it overflows."""
    if value is None:
        return "∞"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def marked(entry: Any) -> str:
    """The perplexity at one length, bold where it rose more than 1 above the trained length; its interval."""
    value = f"**{ppl(entry['perplexity'])}**" if entry["risen"] else ppl(entry["perplexity"])
    return value + bounds(entry)


def bounds(entry: Any) -> str:
    """The interval of 95 % of a perplexity, in brackets, where there is one."""
    return f" [{', '.join(map(ppl, entry['interval']))}]" if entry["interval"] else ""


def perplexity_tables(summary: Any) -> list[Table]:
    """Of one pass, by method: the mean up to each length, and from where on it fails; the same as multiples
    of the first method's; and each window.

    Of contexts that slide: the mean by contexts of each length; as multiples of the first method's; and as
    multiples of the first method's in contexts of the trained length, on the same text.
    """
    results, reach = summary["results"], {entry["method"]: entry for entry in summary["reach"]}
    slides = not any(r["windows"] for r in results)
    lengths = sorted({entry["length"] for r in results for entry in r["lengths"]})
    heads = [f"{length:,}" for length in lengths]

    def row(entries: Sequence[Any], shown: Callable[[Any], str]) -> list[str]:
        """By length; nothing where one was not measured yet."""
        by_length = {entry["length"]: shown(entry) for entry in entries}
        return [by_length.get(length, "") for length in lengths]

    means: Table = [["contexts of" if slides else "mean up to", *heads, *([] if slides else ["fails from"])]]
    for r in results:
        fails = reach[r["method"]]["breaks_at"]
        last = [] if slides else ["" if fails is None else f"{fails:,}"]
        means.append([r["method"], *row(r["lengths"], marked), *last])
    against: Table = [[f"× {results[0]['method']}", *heads]]
    against += [[r["method"], *row(r["lengths"], lambda entry: times(entry["against"]))] for r in results[1:]]
    if slides:
        return [means, against, _beside_trained(reach)]
    windows: Table = [["tokens", *(r["method"] for r in results)]]
    for same in zip(*(r["windows"] for r in results), strict=True):
        span = f"{same[0]['start']:,} – {same[0]['end']:,}"
        windows.append([span, *(ppl(window["perplexity"]) + bounds(window) for window in same)])
    return [means, against, windows]


def _beside_trained(reach: dict[str, Any]) -> Table:
    entries = [each for entry in reach.values() for each in entry["beside_trained"]]
    lengths = sorted({each["length"] for each in entries})
    first, within = next(iter(reach)), entries[0]["contexts_of"] if entries else 0
    table: Table = [[f"× {first} in contexts of {within:,}", *(f"{length:,}" for length in lengths)]]
    for method, entry in reach.items():
        row = {each["length"]: each for each in entry["beside_trained"]}
        table.append([method, *(times(row.get(length)) for length in lengths)])
    return table


def times(ratio: Any) -> str:
    """A perplexity as a multiple of another's, and its interval; ≈ where the two are not told apart."""
    if ratio is None or ratio["ratio"] is None:
        return ""
    bounds = ", ".join(map(_factor, ratio["interval"]))
    return f"{'' if ratio['differs'] else '≈ '}{_factor(ratio['ratio'])} [{bounds}]"


def _factor(value: float) -> str:
    return f"{value:.3f}" if 0.1 <= value < 10 else f"{value:.3g}"


def found_tables(summary: Any) -> list[Table]:
    """How many of how many were found by method and length; and how much more than by the first method, of
    the same prompts."""
    results = summary["results"]
    methods = list(dict.fromkeys(entry["method"] for entry in results))
    lengths = sorted({entry["length"] for entry in results})
    heads = [f"{length:,}" for length in lengths]
    table: Table = [["method", *heads]]
    for method in methods:
        cells = ([e for e in results if (e["method"], e["length"]) == (method, n)] for n in lengths)
        table.append([method, *map(found, cells)])
    more: Table = [[f"more than {methods[0]}, points", *heads]]
    for method in methods[1:]:
        total = {e["length"]: e for e in summary["totals"] if e["method"] == method}
        more.append([method, *(points(total.get(n)) for n in lengths)])
    return [table, more]


def points(total: Any) -> str:
    """A difference of shares in percent, with its interval; ≈ where the two are not told apart."""
    difference = total and total["against"]
    if not difference:
        return ""
    low, high = difference["interval"]
    shown = f"{100 * difference['difference']:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"
    return shown if difference["differs"] else f"≈ {shown}"


def found(entries: Any) -> str:
    trials = sum(entry["trials"] for entry in entries)
    hits = sum(entry["trials"] * entry["found"] for entry in entries)
    if not trials:
        return ""
    low, high = wilson(hits / trials, trials)
    return f"{hits:g} of {trials} [{100 * low:.0f}, {100 * high:.0f}]"


def combined_tables(summary: Any) -> list[Table]:
    """Perplexity at each length and passkeys found, by method; what a sweep recommends."""
    results = summary["results"]
    chosen = results.get("recommendations", {})
    marks = {
        choice["method"]: ", ".join(name for name, other in chosen.items() if other == choice)
        for choice in chosen.values()
    }
    lengths = [entry["length"] for entry in results["perplexity"][0]["lengths"]]
    table: Table = [["method", *(f"perplexity to {n:,}" for n in lengths), "passkeys", *([""] * bool(marks))]]
    for row in results["perplexity"]:
        method = row["method"]
        keys = found([entry for entry in results["passkey"] if entry["method"] == method])
        mark = [marks.get(method, "")] if marks else []
        table.append([method, *map(marked, row["lengths"]), keys, *mark])
    return [table]


def density_tables(summary: Any) -> list[Table]:
    """One row a length and method: what sparse prefill reads, and its figures beside the first method's."""
    first = summary["results"][0]["method"]
    table: Table = [
        [
            "tokens",
            "method",
            "density",
            "perplexity",
            f"× {first}",
            "density of prompts",
            "found",
            "points more",
        ]
    ]
    for entry in summary["results"]:
        ratio, more = entry["ratio"], entry["difference_interval"]
        table.append(
            [
                f"{entry['length']:,}",
                entry["method"],
                _two_digits(entry["density"]),
                "" if entry["perplexity"] is None else ppl(entry["perplexity"]) + bounds(entry),
                "" if ratio is None else times(_as_ratio(ratio, entry["ratio_interval"])),
                _two_digits(entry["prompts_density"]),
                found([{"trials": entry["prompts"], "found": entry["found"]}] if entry["prompts"] else []),
                "" if more is None else f"[{100 * more[0]:+.0f}, {100 * more[1]:+.0f}]",
            ]
        )
    return [table]


def _two_digits(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _as_ratio(value: float, interval: Any) -> Any:
    return {"ratio": value, "interval": interval, "differs": not interval[0] <= 1 <= interval[1]}


def efficiency_tables(summary: Any) -> list[Table]:
    """One row a length and method."""
    table: Table = [["tokens", "method", "first token, s", "prefill/s", "decode/s", "cache + scratch, MiB"]]
    for entry in sorted(summary["results"], key=lambda entry: entry["length"]):
        table.append(
            [
                f"{entry['length']:,}",
                entry["method"],
                f"{entry['first_token_s']:,.3f}",
                f"{entry['length'] / entry['first_token_s']:,.0f}",
                f"{entry['decode_tokens_per_s']:,.0f}",
                f"{(entry['cache_bytes'] + entry['scratch_bytes']) / 2**20:,.0f}",
            ]
        )
    return [table]
