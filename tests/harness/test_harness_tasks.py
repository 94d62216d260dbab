"""L-Eval's closed tasks and SCROLLS's with examples, as in the paper's tables: found, read and judged."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_hf import write_tiny_model

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from lm_eval.tasks import TaskManager  # noqa: E402

from dca_export.cli.export import main as export  # noqa: E402
from dca_export.harness import tasks  # noqa: E402
from dca_export.harness.tasks import leval, scrolls  # noqa: E402

FOLDER = Path(tasks.__file__).parent
NAMES = ("coursera", "gsm100", "quality", "sci_fi", "tpo")
PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")


def write(folder: Path, name: str, *documents: dict) -> None:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"source": name, "evaluation": "exam"} | each) + "\n" for each in documents)
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    """Files in the benchmarks' form: two documents of two questions each, and zips of six questions."""
    answers = {"coursera": "AB", "gsm100": "18", "quality": "(B) Because.", "sci_fi": "False", "tpo": "C"}
    for name, answer in answers.items():
        documents = [
            {
                "input": f"story {n} " * 60,
                "instructions": [f" Why {n}? ", "How?"],
                "outputs": [answer, answer],
            }
            for n in range(2)
        ]
        write(tmp_path / "leval", name, *documents)
    for name in ("narrative_qa", "qasper", "qmsum"):
        rows = [(f"What is {n}?\n\n" + "the fox " * 20, f"a dog {n}") for n in range(6)]
        write_zip(tmp_path, name, [*rows, ("What is 0?\n\n" + "the fox " * 20, "123")])
    write_zip(tmp_path, "quality", [(QUALITY.format(n=n), "the  lazy dog") for n in range(6)])
    return tmp_path


QUALITY = "Who jumps {n}?\n\n (A) the fox\n (B) the lazy dog\n (C) 123\n (D) a cat\n\nThe story\n\nof a fox."


def write_zip(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    lines = [
        {"id": text.split("?")[0], "pid": str(n), "input": text, "output": answer}
        for n, (text, answer) in enumerate(rows)
    ]
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        for split in ("train", "validation"):
            file.writestr(f"{name}/{split}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory):
    """A checkpoint and its file."""
    directory = tmp_path_factory.mktemp("leval") / "tiny"
    write_tiny_model(directory, max_position_embeddings=2048)
    gguf = directory.with_suffix(".gguf")
    assert export([str(directory), str(gguf), "--outtype", "f32", "--no-dca"]) == 0
    return directory, gguf


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ABD", "ABD"),
        ("A, B and D", "ABD"),
        ("(B) Their subconscious knew.", "B"),
        ("A. Reframe the problem\nB. Ask\nD. Wait", "ABD"),
        ("The answer is (C).", "C"),
        ("D\n\nQuestion: what of A?", "D"),
        ("A dog ran", ""),
        ("Because", ""),
        ("", ""),
    ],
)
def test_options_that_an_answer_names(text, wanted):
    assert leval.letters(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("6 of 9.\nThe answer is $1,250.", "1250"),
        ("so 12 eggs, then 40", "40"),
        ("The answer is 72.00", "72"),
        ("none", ""),
    ],
)
def test_the_number_that_an_answer_gives(text, wanted):
    assert leval.number(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("True", "true"), ("False [fact: True]", "false"), ("It is not true.", "true"), ("[fact: True]", "")],
)
def test_what_an_answer_holds_true(text, wanted):
    assert leval.truth(text) == wanted


def test_an_answer_without_an_option_is_wrong():
    assert leval.right_first_option({"answer": "A"}, ["I do not know"]) == {"acc": 0.0}
    assert leval.right_first_option({"answer": "(B) x"}, [" B. x"]) == {"acc": 1.0}
    assert leval.right_option({"answer": "AC"}, ["A"]) == {"acc": 0.0}


def test_a_document_becomes_a_row_a_question(data):
    rows = leval.quality(leval=str(data / "leval"), version=1.0)["test"]
    assert len(rows) == 4
    assert rows[0] == {"document": "story 0 " * 60, "question": "Why 0?", "answer": "(B) Because."}


def test_what_is_wrong_with_the_data_is_said(tmp_path):
    with pytest.raises(ValueError, match="git clone .*--metadata"):
        leval.tpo(version=1.0)
    with pytest.raises(ValueError, match=r"tpo\.jsonl: is not there"):
        leval.tpo(leval=str(tmp_path))
    write(tmp_path, "tpo", {"input": "x", "instructions": ["a", "b"], "outputs": ["A"]})
    with pytest.raises(ValueError, match="line 1: expected"):
        leval.tpo(leval=str(tmp_path))


def test_a_question_has_all_of_its_answers(data):
    rows = scrolls.qasper(scrolls=str(data), version=1.0)["validation"]
    assert len(rows) == 6
    first = rows[0]
    assert (first["question"], first["answers"]) == ("What is 0?", ["a dog 0", "123"])
    assert first["document"].startswith("the fox the fox")
    assert scrolls.right_words(first, ["It is: 123"])["f1"] == pytest.approx(100 * 2 / 4)


def test_options_stand_between_question_and_story(data):
    row = scrolls.quality(scrolls=str(data))["train"][1]
    assert row["choices"] == ["the fox", "the lazy dog", "123", "a cat"] and row["gold"] == 1
    assert (row["question"], row["document"]) == ("Who jumps 1?", "The story\n\nof a fox.")


@pytest.mark.parametrize(
    ("answer", "wanted", "share"),
    [
        ("The lazy dog.", "a lazy, dog", 1.0),
        ("lazy dog", "dog", 2 / 3),
        ("dog dog", "dog", 2 / 3),
        ("cat", "dog", 0.0),
        ("", "the", 1.0),
    ],
)
def test_words_in_common(answer, wanted, share):
    assert scrolls.overlap(answer, wanted) == pytest.approx(share)


def test_a_summary_is_judged_by_three_kinds_of_rouge():
    pytest.importorskip("rouge_score")
    assert scrolls.right_summary({"answers": ["x", "the fox jumps"]}, ["the fox jumps"])["rouge"] == 100
    # Of 3 and 4 words 2 are common, and 1 pair of 2 and 3, in one order.
    found = scrolls.right_summary({"answers": ["fox jumps high"]}, ["a fox jumps far"])["rouge"]
    assert found == pytest.approx(100 * (4 / 7 * 2 / 5 * 4 / 7) ** (1 / 3))


def test_what_is_wrong_with_a_zip_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"qasper\.zip in a folder, then --metadata"):
        scrolls.qasper(scrolls=str(tmp_path))
    (tmp_path / "qasper.zip").write_text("<html>")
    with pytest.raises(ValueError, match=r"expected qasper/train\.jsonl"):
        scrolls.qasper(scrolls=str(tmp_path))


def test_the_command_runs_all_of_them_as_hf_does(data, tmp_path, tiny_pair):
    directory, gguf = tiny_pair

    def run(model: str, arguments: str, chosen: str) -> tuple[dict, list]:
        out = tmp_path / model
        command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments]
        command += ["--tasks", chosen, "--include_path", str(FOLDER), "--output_path", str(out)]
        where = {"leval": str(data / "leval"), "scrolls": str(data)}
        command += ["--metadata", json.dumps(where), "--device", "cpu", "--log_samples"]
        home = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        (results,) = out.rglob("results*.json")
        samples = {
            path.name.split("_20")[0].removeprefix("samples_"): list(map(json.loads, path.open()))
            for path in out.rglob("samples*")
        }
        return json.loads(results.read_text())["results"], samples

    found, samples = run("dca", f"path={gguf},cache_type=f32", "leval_closed,scrolls_examples")
    for name in NAMES:
        assert len(samples[f"leval_{name}"]) == 4 and 0 <= found[f"leval_{name}"]["acc,none"] <= 1
    shots = {"narrative_qa": 0, "qasper": 2, "qmsum": 1, "quality": 2}
    for name, count in shots.items():
        (first, *_) = samples[f"scrolls_examples_{name}"]
        prompt = first["arguments"]["gen_args_0"]["arg_0"]
        assert prompt.count("Answer:") == count + 1 and prompt.endswith("Answer:")
    assert 0 <= found["scrolls_examples_quality"]["acc,none"] <= 1
    assert 0 <= found["scrolls_examples_qasper"]["f1,none"] <= 100
    chosen = "scrolls_examples_quality"
    _, wanted = run("hf", f"pretrained={directory},dtype=float32", chosen)
    for one, other in zip(samples[chosen], wanted[chosen], strict=True):
        assert one["arguments"] == other["arguments"]
        scores = [[float(pair[0][0]) for pair in each["resps"]] for each in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_the_page_names_tasks_that_the_harness_has():
    known = set(TaskManager(include_path=str(FOLDER)).all_tasks)
    named = {name for line in re.findall(r"--tasks (\S+)", PAGE) for name in line.split(",")}
    assert {"ruler", "longbench", "leval_closed", "scrolls_examples", "scrolls_quality"} <= named <= known
