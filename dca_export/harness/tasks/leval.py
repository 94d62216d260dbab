"""L-Eval's files as questions, and what counts as a right answer.

A line of a file is a document with its questions: {"input", "instructions": […], "outputs": […], …}. The
tasks call these functions by name; nothing of the harness is imported here.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

_CLONE = "git clone https://github.com/OpenLMLab/LEval, then --metadata "
_CLONE += """'{"leval": "LEval/LEval-data/Closed-ended-tasks"}'"""


def load(name: str, leval: str | None = None, **_: Any) -> dict[str, Any]:
    """{"test": a row a question, of leval/NAME.jsonl}; what else the harness passes is not for us.

    Raises ValueError for a folder that is not named or lacks the file, and for a line that is not L-Eval's.
    """
    from datasets import Dataset

    if leval is None:
        raise ValueError(f"leval_{name}: expected the folder of L-Eval's closed tasks: {_CLONE}")
    path = Path(leval) / f"{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: is not there; expected L-Eval's closed tasks in this folder: {_CLONE}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            each = json.loads(line)
            pairs = list(zip(each["instructions"], each["outputs"], strict=True))
            document = each["input"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path}: line {number}: expected "input", and as many "instructions" as "outputs"'
            ) from error
        rows += [{"document": document, "question": q.strip(), "answer": a} for q, a in pairs]
    return {"test": Dataset.from_list(rows)}


coursera, gsm100, quality, sci_fi, tpo = (
    partial(load, name) for name in ("coursera", "gsm100", "quality", "sci_fi", "tpo")
)


def letters(text: str) -> str:
    """The options that an answer names: "ABD" of "ABD", of "A, B and D", and of options written out, each on
    a line of its own; "B" of "The answer is (B)". "" if none: the "A" of "A dog" is a word.
    """
    first = text.strip().split("\n")[0]
    if re.fullmatch(r"(?:[\sA-D(),.&]|and)+", first):
        found = re.findall(r"[A-D]", first)
    else:
        found = re.findall(r"^\s*\(?([A-D])[).:](?=\s)", text, re.MULTILINE)
        found = found or re.findall(r"\b([A-D])\b(?=[).:,;]|\s*$)", first)[:1]
    return "".join(sorted(set(found)))


def number(text: str) -> str:
    """The number after "the answer is", else the last one; without a sign, commas and decimals, as L-Eval has
    it. "" if none."""
    stated = re.search(r"answer is\D*?(\d[\d,]*)", text, re.IGNORECASE)
    found = [stated[1]] if stated else re.findall(r"\d[\d,]*", text.split("\n\n")[0])
    return found[-1].replace(",", "") if found else ""


def truth(text: str) -> str:
    """ "true" or "false", whichever is said first, what L-Eval adds in brackets left out; "" if neither."""
    said = re.search(r"true|false", text.lower().split("[fact")[0])
    return said[0] if said else ""


def _right(read: Any, doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"acc": float(read(results[0]) == read(doc["answer"]))}


right_option, right_number, right_truth = (partial(_right, read) for read in (letters, number, truth))


def right_first_option(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Where one option is right, only the first one that is named counts."""
    return {"acc": float(letters(results[0])[:1] == letters(doc["answer"])[:1] != "")}
