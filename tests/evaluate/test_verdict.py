"""What was found, in sentences; and the page that opens with them."""

import re

import pytest

from dca_export.evaluate.output import report
from dca_export.evaluate.output.verdict import verdict
from dca_export.evaluate.results import Results

TRAINED = 1000


def results(experiment: str, *cells: tuple[dict, dict]) -> Results:
    found = Results(
        {
            "experiment": experiment,
            "model": {"file": "m.gguf", "context_length": TRAINED, "scheme": [300, 100, 400, 0.0, 0]},
            "settings": {"text": "a <text>"},
            "command": ["dca-eval", experiment, "my model.gguf"],
            "device": "cpu",
            "versions": {"dca-export": "1"},
            "started": "2026-01-01T00:00:00+00:00",
        }
    )
    for cell, figures in cells:
        found.add(cell, figures)
    return found


def predicted(method: str, *nlls: tuple[int, float]) -> tuple[dict, dict]:
    return {"method": method, "lengths": [n for n, _ in nlls]}, {
        "lengths": list(map(list, nlls)),
        "windows": [],
    }


def hidden(method: str, length: int, *found: float) -> list[tuple[dict, dict]]:
    return [
        ({"method": method, "length": length, "depth": 50, "trial": trial}, {"found": share, "answer": "<b>"})
        for trial, share in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (
            predicted("plain", (1000, 2.0), (4000, 5.0)),
            "plain fails beyond the trained 1,000 tokens: perplexity 148 at 4,000 tokens.",
        ),
        (
            predicted("dca", (1000, 2.0), (4000, 2.0)),
            "dca:300/100/400 still predicts at 4,000 tokens, beyond the trained 1,000: perplexity 7.39.",
        ),
        (
            predicted("dca:30/10/40", (500, 2.0)),
            "dca:30/10/40 reaches perplexity 7.39 at 500 tokens, within the trained 1,000.",
        ),
        (
            predicted("plain", (1000, 2.0), (4000, float("nan"))),
            "plain fails beyond the trained 1,000 tokens: perplexity NaN at 4,000 tokens.",
        ),
        (
            predicted("plain", (1000, 2.0), (4000, 2.5)),
            "plain rises from perplexity 7.39 within the trained 1,000 tokens to 12.18 at 4,000 tokens.",
        ),
    ],
)
def test_a_sentence_on_predictions(cell, says):
    assert verdict(results("perplexity", cell)) == [says]


@pytest.mark.parametrize("experiment", ["passkey", "needle"])
def test_a_sentence_on_what_was_found_at_the_longest_length(experiment):
    cells = hidden("plain", 500, 1, 1) + hidden("plain", 2000, 0, 0) + hidden("dca", 2000, 1, 1)
    assert verdict(results(experiment, *cells)) == [
        "plain does not reliably find what is hidden in 2,000 tokens: 0% of n = 2 trials "
        "(95 % confidence: 0% to 66%).",
        "dca:300/100/400 finds what is hidden in 2,000 tokens: 100% of n = 2 trials "
        "(95 % confidence: 34% to 100%).",
        "The trials do not tell dca:300/100/400 from plain there.",
    ]


def test_a_sentence_on_each_task_of_recall_at_the_longest_length():
    cells = [
        ({"method": "dca", "task": task, "length": length, "trial": trial}, {"found": 1.0, "answer": "x"})
        for task in ("keys", "count")
        for length in (500, 2000)
        for trial in range(2)
    ]
    assert verdict(results("recall", *cells)) == [
        f"dca:300/100/400 finds 100% of what task {task} asks for in 2,000 tokens: n = 2 (95 % confidence: "
        "34% to 100%)."
        for task in ("keys", "count")
    ]


def test_time_and_memory_are_said_beside_the_first_method():
    def cost(method, length, seconds, speed, cache):
        figures = {"first_token_s": seconds, "decode_tokens_per_s": speed, "cache_bytes": cache}
        cell = {"method": method, "length": length, "repeat": 0}
        return cell, figures | {"scratch_bytes": 0, "weight_bytes": 0}

    cells = [
        cost("plain", 500, 9.0, 9.0, 9),
        cost("plain", 2000, 2.0, 100.0, 64 << 20),
        cost("dca", 2000, 2.2, 90.0, 32 << 20),
    ]
    assert verdict(results("efficiency", *cells)) == [
        "plain reads 2,000 tokens in 2.00 s, then decodes 100.0 tokens/s, in 64 MiB with the weights.",
        "dca:300/100/400 takes ×1.10 that time to the first token, decodes at ×0.90 that speed, and takes "
        "×0.50 the memory.",
    ]


def test_an_ablation_has_both_kinds_of_sentences():
    cells = [predicted("intra", (2000, 2.0)), *hidden("intra", 2000, 0)]
    parts = ("perplexity", "passkey")
    both = [({"part": part} | cell, found) for part, (cell, found) in zip(parts, cells, strict=True)]
    first, second = verdict(results("ablation", *both))
    assert first.startswith("intra:300/100/400 still predicts")
    assert second.startswith("intra:300/100/400 does not reliably find")


def test_the_page_opens_with_the_verdict_and_the_terms():
    page = report.page([results("perplexity", predicted("plain", (1000, 2.0), (4000, 5.0)))])
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Verdict", "perplexity"]
    before, after = page.split("<h2>perplexity</h2>")
    assert "<li>plain fails beyond the trained 1,000 tokens" in before and "<dt>depth</dt>" in before
    assert "dca-eval perplexity &#x27;my model.gguf&#x27;" in after
    assert "a &lt;text&gt;" in after and "<text>" not in page


def test_one_page_of_several_experiments_says_all_verdicts_first():
    page = report.page(
        [
            results("perplexity", predicted("plain", (1000, 2.0), (4000, 5.0))),
            results("passkey", *hidden("dca", 2000, 1)),
        ]
    )
    before, _ = page.split("<h2>perplexity</h2>")
    assert before.count("<li>") == 2
