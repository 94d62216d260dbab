"""L-Eval's closed tasks, and few-shot ones as in the paper's Table 3: found, read and judged. Offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_hf import write_tiny_model

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from lm_eval.tasks import TaskManager  # noqa: E402

from dca_export.cli.export import main as export  # noqa: E402
from dca_export.harness import leval  # noqa: E402
from dca_export.harness.leval import questions  # noqa: E402

FOLDER = Path(leval.__file__).parent
NAMES = ("coursera", "gsm100", "quality", "sci_fi", "tpo")
PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")

FEW_SHOT = """
task: local_few_shot
dataset_path: json
dataset_kwargs:
  data_files:
    train: {data}
    test: {data}
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "{{{{document}}}}\\nQuestion: {{{{question}}}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
"""


def write(folder: Path, name: str, *documents: dict) -> None:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"source": name, "evaluation": "exam"} | each) + "\n" for each in documents)
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    """Files in L-Eval's form: two documents of two questions each."""
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
    return tmp_path / "leval"


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
    assert questions.letters(text) == wanted


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
    assert questions.number(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("True", "true"), ("False [fact: True]", "false"), ("It is not true.", "true"), ("[fact: True]", "")],
)
def test_what_an_answer_holds_true(text, wanted):
    assert questions.truth(text) == wanted


def test_an_answer_without_an_option_is_wrong():
    assert questions.right_first_option({"answer": "A"}, ["I do not know"]) == {"acc": 0.0}
    assert questions.right_first_option({"answer": "(B) x"}, [" B. x"]) == {"acc": 1.0}
    assert questions.right_option({"answer": "AC"}, ["A"]) == {"acc": 0.0}


def test_a_document_becomes_a_row_a_question(data):
    rows = questions.quality(leval=str(data), version=1.0)["test"]
    assert len(rows) == 4
    assert rows[0] == {"document": "story 0 " * 60, "question": "Why 0?", "answer": "(B) Because."}


def test_what_is_wrong_with_the_data_is_said(tmp_path):
    with pytest.raises(ValueError, match="git clone .*--metadata"):
        questions.tpo(version=1.0)
    with pytest.raises(ValueError, match=r"tpo\.jsonl: is not there"):
        questions.tpo(leval=str(tmp_path))
    write(tmp_path, "tpo", {"input": "x", "instructions": ["a", "b"], "outputs": ["A"]})
    with pytest.raises(ValueError, match="line 1: expected"):
        questions.tpo(leval=str(tmp_path))


def test_the_command_runs_all_of_them_and_few_shots_as_hf_does(data, tmp_path, tiny_pair):
    directory, gguf = tiny_pair
    rows = [
        {"document": f"the quick brown fox {n} " * 9, "question": f"what {n}?", "choices": [" fox", " dog"],
         "answer": n % 2} for n in range(6)
    ]  # fmt: skip
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "few.yaml").write_text(FEW_SHOT.format(data=tmp_path / "few.jsonl"))

    def run(model: str, arguments: str, tasks: str, folder: Path) -> tuple[dict, list]:
        out = tmp_path / f"{model}-{tasks}"
        command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments]
        command += ["--tasks", tasks, "--include_path", str(folder), "--output_path", str(out)]
        command += ["--metadata", json.dumps({"leval": str(data)}), "--device", "cpu", "--log_samples"]
        home = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        (results,) = out.rglob("results*.json")
        samples = [json.loads(line) for path in sorted(out.rglob("samples*")) for line in path.open()]
        return json.loads(results.read_text()), samples

    ours, theirs = f"path={gguf},cache_type=f32", f"pretrained={directory},dtype=float32"
    found, samples = run("dca", ours, "leval_closed", FOLDER)
    assert {f"leval_{name}" for name in NAMES} <= set(found["results"])
    assert len(samples) == 4 * len(NAMES)
    for name in NAMES:
        assert 0 <= found["results"][f"leval_{name}"]["acc,none"] <= 1
    shots = [run(m, a, "local_few_shot", tmp_path / "own")[1] for m, a in (("dca", ours), ("hf", theirs))]
    for one, other in zip(*shots, strict=True):
        assert one["arguments"] == other["arguments"]
        assert str(one["arguments"]).count("Answer:") == 2 * 3  # two choices; two examples and the question
        scores = [[float(pair[0][0]) for pair in each["resps"]] for each in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_the_page_names_tasks_that_the_harness_has():
    """Every task after --tasks, but those that the page says are the reader's own."""
    known = set(TaskManager(include_path=str(FOLDER)).all_tasks)
    named = [name for line in re.findall(r"--tasks (\S+)", PAGE) for name in line.split(",")]
    assert {"ruler", "longbench", "scrolls_quality", "leval_closed"} <= set(named)
    assert set(named) <= known
