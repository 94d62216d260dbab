"""Experiments on the reference: the same figures as the library's where both run, and methods of its own."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dca_runtime as dca  # noqa: E402
from dca_export.cli.eval import main  # noqa: E402
from dca_export.errors import InputError  # noqa: E402
from dca_export.evaluate import methods, perplexity, retrieval  # noqa: E402
from dca_export.evaluate.methods import parse  # noqa: E402
from dca_export.evaluate.reference_engine import ReferenceModel  # noqa: E402


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(96, 32, 128), context_length=128))


@pytest.fixture(scope="module")
def models(path):
    with dca.Model(path) as native, ReferenceModel(path, device="cpu") as reference:
        yield native, reference


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 320, 300, np.int32)


@pytest.mark.parametrize(
    "name",
    ["plain", "dca", "intra", "dca:24/8/32", "plain@linear:4", "plain@ntk:4", "dca@yarn:4", "plain@dynamic:2"]
    + ["string:40/8", "string:80/16@yarn:2", "streaming:4/40", "lm-infinite:4/40", "string:90/0@dynamic:2"],
)
def test_it_scores_as_the_library_does(models, ids, name):
    method = parse(name)
    scores = []
    for model in models:
        with method.session(model, context=len(ids), cache_type="f32") as session:
            session.append(ids[:40])
            scores.append(session.score(ids[40:]))
    assert np.abs(scores[0] - scores[1]).max() < 2e-3


def test_a_window_longer_than_the_text_is_plain_attention(models, ids):
    _, reference = models
    found = []
    for name in ("plain", "rerope:300", "string:300/8", "streaming:4/300", "self-extend:4/300"):
        with parse(name).session(reference, context=len(ids)) as session:
            found.append(session.score(ids))
    assert all(np.abs(each - found[0]).max() < 1e-4 for each in found[1:])


@pytest.mark.parametrize(
    "name", ["rerope:40", "string:40/8", "streaming:4/40", "lm-infinite:4/40", "self-extend:3/40"]
)
def test_decoding_is_as_reading_at_once(models, ids, name):
    _, reference = models
    with (
        parse(name).session(reference, context=200) as whole,
        parse(name).session(reference, context=200) as steps,
    ):
        expected = whole.eval(ids[:130], all_logits=True)
        steps.eval(ids[:100])
        steps.truncate(90)
        assert steps.length == 90
        found = [steps.eval([token]) for token in ids[90:95]] + list(steps.eval(ids[95:130], all_logits=True))
    assert np.abs(expected[90:] - np.array(found)).max() < 1e-3


def test_dynamic_ntk_depends_on_the_length_alone(models, ids):
    """Beyond the trained length it is NTK with the factor F · n / L − (F − 1); within, the plain model."""
    _, reference = models

    def score(name, n):
        with parse(name).session(reference, context=n) as session:
            return session.score(ids[:n])

    assert np.abs(score("plain@dynamic:2", 128) - score("plain", 128)).max() < 1e-5
    assert np.abs(score("plain@dynamic:2", 256) - score("plain@ntk:3", 256)).max() < 1e-5
    plan = perplexity.plan([parse("plain@dynamic:2"), parse("plain")], [100, 256], 0)
    assert [cell["lengths"] for cell in plan] == [[100], [256], [100, 256]]


def test_greedy_answers_are_the_librarys(models):
    answers = []
    for model in models:
        with retrieval.Answerer(model, 60, "f32") as answerer:
            prompts = [[5] * 30 + [7] * 4, [5] * 20 + [9] * 7]
            answers.append([answerer.answer("dca", ids, 8, lambda *_: None) for ids in prompts])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        (["perplexity", "--lengths", "150,300", "--window", "100"], [150, 300]),
        (["passkey", "--lengths", "600", "--depths", "50", "--trials", "1"], [600]),
    ],
)
def test_the_command_runs_any_method(path, capsys, tmp_path, arguments, lengths):
    text = tmp_path / "t.txt"
    text.write_text("".join(f"This is sentence {n} of the book.\n" for n in range(99)))
    name, *rest = arguments
    more = ["--text", str(text)] if name == "perplexity" else []
    wanted = ["plain", "rerope:40", "self-extend:4/60", "string:80/16", "streaming:4/60", "lm-infinite:4/60"]
    methods_ = [*wanted, "plain@dynamic:2", "string:80/16@yarn:2"]
    command = [
        name,
        path,
        *rest,
        *more,
        "--engine",
        "reference",
        "--device",
        "cpu",
        "--attention",
        ",".join(methods_),
    ]
    files = ["--results", str(tmp_path / "r.jsonl"), "--plot", str(tmp_path / "p.svg")]
    assert main([*command, "--json", "-", *files]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert "reference (cpu, float32" in summary["device"] and summary["settings"]["engine"] == "reference"
    entries = summary["results"]
    assert list(dict.fromkeys(entry["method"] for entry in entries)) == methods_
    by_method = {entry["method"]: entry for entry in entries}
    assert by_method["string:80/16"]["scheme"] == [80, 16]
    if name == "perplexity":
        assert [e["length"] for e in by_method["plain@dynamic:2"]["lengths"]] == lengths
        assert by_method["plain@dynamic:2"]["lengths"][0]["against"]["interval"]
    assert main(["report", str(tmp_path / "r.jsonl"), "-o", str(tmp_path / "page.html")]) == 0


def test_the_library_gives_the_references_table(path, capsys, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("".join(f"This is sentence {n} of the book.\n" for n in range(99)))
    names = "plain,string:80/16,streaming:4/60,lm-infinite:4/60,plain@dynamic:2,string:80/16@yarn:2"
    command = [
        "perplexity",
        path,
        "--lengths",
        "150,300",
        "--window",
        "100",
        "--text",
        str(text),
        "--json",
        "-",
    ]
    found = []
    for more in ([], ["--engine", "reference"]):
        assert main([*command, "--device", "cpu", "--cache-type", "f32", "--attention", names, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["results"])
    assert [entry["method"] for entry in found[0]] == [entry["method"] for entry in found[1]]
    for native, reference in zip(*found, strict=True):
        for one, other in zip(native["lengths"], reference["lengths"], strict=True):
            assert one["length"] == other["length"]
            assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-3)


def test_the_library_lacks_them_and_says_so(path, capsys):
    for name in ("rerope:40", "self-extend:4/60"):
        assert main(["passkey", path, "--attention", name]) == 2
        assert "--engine reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["rerope", "rerope:1/2", "string:5", "string:4/9", "streaming:a/5", "self-extend:0/5"]
)
def test_wrong_numbers(name):
    with pytest.raises(InputError, match=name.partition(":")[0]):
        methods.parse(name)


@pytest.mark.parametrize("name", ["rerope:40", "self-extend:4/60", "string:80/16@ntk:2", "streaming:0/60"])
def test_names_are_read_as_they_are_written(name):
    assert parse(name).name == name
