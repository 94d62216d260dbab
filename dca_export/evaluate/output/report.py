"""One HTML page of several experiments: tables, pictures, commands and versions; opens offline."""

import base64
import io
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dca_export.evaluate import experiments
from dca_export.evaluate.output.verdict import verdict
from dca_export.evaluate.results import Results, Table, intelligible

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; }
dd { margin: 0; }
"""


def is_results(path: Path) -> bool:
    """Whether a file looks like results, which no page may take the place of."""
    with path.open("rb") as file:
        return file.read(1) == b"{"


def page(measured: Sequence[Results]) -> str:
    """The whole page, with everything it needs inside it. Raises InputError for figures that are damaged."""
    found, sections = [], []
    for results in measured:
        with intelligible(results):
            found += verdict(results)
            sections.append(_section(results))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>dca-eval</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>dca-eval</h1>\n{_opening(found)}\n{_TERMS}\n{chr(10).join(sections)}\n</body>\n</html>\n"
    )


_TERMS = """<details open><summary>Terms</summary><dl>
<dt>plain</dt><dd>the model's own attention, which fails beyond the length it was trained on</dd>
<dt>dca S/W/C</dt><dd>Dual Chunk Attention: chunks of S tokens; the first W tokens after a border
see the chunk before at exact distances; no distance reaches C</dd>
<dt>perplexity</dt><dd>how many words the model hesitates between at each place of a text; lower is
better, and it should not rise beyond the trained length</dd>
<dt>passkey, needle</dt><dd>a number or sentence hidden in a long text and asked for at its end; the
share found says whether the model reaches all of it</dd>
<dt>depth</dt><dd>how much of the text, in percent, comes before what is hidden</dd>
<dt>95 % confidence</dt><dd>where the figure would lie with many more texts or trials of the kind, 95
times of a hundred: for perplexities by resampling blocks of the text, for shares by Wilson's interval, for
differences of two methods from what each block or prompt gave under both</dd>
<dt>≈, not told apart</dt><dd>the difference is not larger than its noise</dd>
<dt>trained</dt><dd>the number of tokens that the model saw at once in training</dd>
</dl></details>"""


def _opening(found: Sequence[str]) -> str:
    """What was found, in words."""
    return "<h2>Verdict</h2>\n<ul>" + "".join(f"<li>{escape(each)}</li>" for each in found) + "</ul>"


def _section(results: Results) -> str:
    head, experiment = results.header, experiments.of(results)
    sittings = [head, *results.sittings]
    facts = {
        "model": f"{head['model']['file']}, trained to {head['model']['context_length']:,} tokens",
        **{name: str(value) for name, value in results.settings.items()},
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    shown = ""
    if any(results.cells()):
        tables = "\n".join(_table(table) for table in experiment.tables(results))
        alt = escape(head["experiment"])
        shown = f'<img alt="{alt}" src="data:image/png;base64,{_picture(results)}">\n{tables}'
    return (
        f"<h2>{escape(head['experiment'])}</h2>\n"
        f"{shown}\n<dl>{listed}</dl>\n{chr(10).join(map(_sitting, sittings))}"
    )


def _sitting(sitting: dict[str, Any]) -> str:
    """The command of one sitting, and what it ran on; a run that was interrupted may have several."""
    versions = ", ".join(f"{name} {version}" for name, version in sitting["versions"].items())
    about = f"{sitting['started']} on {sitting['device']}, {versions}"
    return f"<pre>{escape(shlex.join(sitting['command']))}</pre>\n<p>{escape(about)}</p>"


def _table(table: Table) -> str:
    columns = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in table.rows
    )
    return f"<table>\n<caption>{escape(table.title)}</caption>\n<tr>{columns}</tr>\n{rows}\n</table>"


def _picture(results: Results) -> str:
    buffer = io.BytesIO()
    experiments.of(results).draw(results).savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
