"""SCROLLS's files as questions with examples before them, as the paper's Table 3 has them, and how answers
are judged.

The harness (0.4.13) has SCROLLS without examples; with them its own tasks end in a TypeError. The tasks call
these functions by name; nothing of the harness is imported here.
"""

import json
import re
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from string import punctuation
from typing import Any

_WHERE = "https://huggingface.co/datasets/tau/scrolls/resolve/main/{name}.zip in a folder, then --metadata "
_WHERE += """'{{"scrolls": "FOLDER"}}'"""


def load(name: str, scrolls: str | None = None, **_: Any) -> dict[str, Any]:
    """{"train", "validation"}: a row a question with all of its answers, of the file scrolls/NAME.zip; what
    else the harness passes is not for us.

    Raises ValueError for a folder that is not named or lacks the file, and for a file that is not SCROLLS's.
    """
    from datasets import Dataset

    path = None if scrolls is None else Path(scrolls) / f"{name}.zip"
    if path is None or not path.is_file():
        raise ValueError(f"{path or name}: expected {_WHERE.format(name=name)}")
    try:
        with zipfile.ZipFile(path) as file:
            lines = {split: file.read(f"{name}/{split}.jsonl") for split in ("train", "validation")}
        return {split: Dataset.from_list(_rows(name, text)) for split, text in lines.items()}
    except (zipfile.BadZipFile, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected {name}/train.jsonl and {name}/validation.jsonl as SCROLLS has them ({error})"
        ) from error


narrative_qa, qasper, qmsum, quality = (
    partial(load, name) for name in ("narrative_qa", "qasper", "qmsum", "quality")
)


def _rows(name: str, text: bytes) -> list[dict[str, Any]]:
    """One a question: a file has a line for each of its answers."""
    rows: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        each = json.loads(line)
        row = rows.setdefault(each["id"], _row(name, each["input"]))
        row["answers"].append(each["output"].strip())
    for row in rows.values():
        if row["choices"]:
            choices = [_spaced(choice) for choice in row["choices"]]
            row["gold"] = choices.index(_spaced(row["answers"][0]))
    return list(rows.values())


def _row(name: str, text: str) -> dict[str, Any]:
    """The question stands before the document; QuALITY's options between them."""
    question, _, document = text.partition("\n\n")
    choices: list[str] = []
    if name == "quality":
        last = document.index("(D)")
        options, _, rest = document[last:].partition("\n\n")
        parts = re.split(r"\s*\([A-D]\)\s*", document[:last] + options)
        document, choices = rest, [part.strip() for part in parts[1:]]
    row = {"question": question.strip(), "document": document.strip(), "choices": choices}
    return row | {"answers": [], "gold": -1}


def _spaced(text: str) -> str:
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """In lower case, without punctuation and articles, as SQuAD compares answers."""
    plain = "".join(sign for sign in text.lower() if sign not in punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def overlap(answer: str, wanted: str) -> float:
    """F1 of the words in common (Rajpurkar et al. 2016); two answers without words are the same."""
    one, other = words(answer), words(wanted)
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def right_words(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F1 with the answer that is nearest, in percent."""
    return {"f1": 100 * max(overlap(results[0], wanted) for wanted in doc["answers"])}


def right_summary(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The geometric mean of ROUGE-1, ROUGE-2 and ROUGE-L with the answer that is nearest, in percent."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    found = []
    for wanted in doc["answers"]:
        product = 1.0
        for score in scorer.score(wanted, results[0]).values():
            product *= score.fmeasure
        found.append(product ** (1 / 3))
    return {"rouge": 100 * max(found)}
