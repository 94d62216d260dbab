"""`--model dca` in lm-evaluation-harness: found, right, and the same as the harness's own `hf`. Offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_hf import write_tiny_model

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from dca_export.cli.export import main as export  # noqa: E402
from dca_export.errors import InputError  # noqa: E402

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TASK = """
task: local_questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{document}}}} {{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
---
task: local_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{document}}}}"
metric_list:
  - metric: word_perplexity
---
task: local_answers
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{document}}}}"
generation_kwargs:
  until: ["z"]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("harness") / "tiny"
    write_tiny_model(path, max_position_embeddings=2048)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}))
    return path


@pytest.fixture(scope="module")
def gguf(directory):
    path = directory.with_suffix(".gguf")
    assert export([str(directory), str(path), "--outtype", "f32", "--no-dca"]) == 0
    return path


@pytest.fixture(scope="module")
def ours(gguf):
    lm = get_model("dca").create_from_arg_string(f"path={gguf},cache_type=f32", {"device": "cpu"})
    yield lm
    lm.runner.close()
    lm.model.close()


@pytest.fixture(scope="module")
def theirs(directory):
    return get_model("hf").create_from_arg_obj(
        {"pretrained": str(directory), "dtype": "float32"}, {"device": "cpu", "batch_size": 1}
    )


def asked(kind, *arguments):
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


PAIRS = [
    ("the quick brown fox", " jumps"),
    ("the quick brown fox", " over the lazy dog 123 times"),
    ("the lazy dog ", "doesn't"),
    ("", "the fox"),
    ("a " * 300, "dog"),
]


def test_the_harness_finds_it_by_its_entry_point():
    from importlib.metadata import entry_points

    (point,) = (each for each in entry_points(group="lm_eval.models") if each.name == "dca")
    assert get_model("dca") is point.load()


def test_log_likelihoods_are_those_of_hf(ours, theirs):
    found = ours.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    wanted = theirs.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


@pytest.mark.parametrize("max_length", [2048, 50])
def test_rolling_log_likelihoods_are_those_of_hf(ours, theirs, monkeypatch, max_length):
    for lm in (ours, theirs):
        monkeypatch.setattr(lm, "_max_length", max_length)
    texts = asked("loglikelihood_rolling", ("the quick brown fox jumps " * 20,), ("dog",))
    found = ours.loglikelihood_rolling(texts, disable_tqdm=True)
    assert found == pytest.approx(theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-3)


def test_long_contexts_lose_their_beginning_as_in_hf(ours, theirs, monkeypatch):
    for lm in (ours, theirs):
        monkeypatch.setattr(lm, "_max_length", 40)
    found, wanted = (
        lm.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True) for lm in (ours, theirs)
    )
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)


@pytest.mark.parametrize("until", [[], [" "], ["e", "o"]])
def test_texts_are_those_of_hf(ours, theirs, until):
    settings = {"until": until, "max_gen_toks": 12, "do_sample": False}
    requests = [(text, settings) for text in ("the quick", "the lazy dog", "doesn't it", "the quick brown")]
    found, wanted = (
        lm.generate_until(asked("generate_until", *requests), disable_tqdm=True) for lm in (ours, theirs)
    )
    assert found == wanted


def test_chats_are_those_of_hf(ours, theirs):
    for messages in (
        [{"role": "user", "content": "Hi there"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "so far"}],
    ):
        for generation in (True, False):
            found, wanted = (
                lm.apply_chat_template(messages, add_generation_prompt=generation) for lm in (ours, theirs)
            )
            assert found == wanted
            assert ours.tok_encode(found) == theirs.tok_encode(wanted, add_special_tokens=False)
    assert ours.chat_template(True) == CHAT and ours.tokenizer_name


def test_the_command_gives_what_hf_gives(gguf, directory, tmp_path):
    data = tmp_path / "questions.jsonl"
    rows = [
        {
            "document": "the quick brown fox jumps over the lazy dog. " * 3,
            "question": f"what jumps {number}?",
            "choices": [" the fox", " the dog", " 123"],
            "answer": number % 3,
        }
        for number in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, text in enumerate(TASK.format(data=data).split("---")):
        (tmp_path / f"task{number}.yaml").write_text(text)

    def run(model, arguments, *more):
        command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments]
        command += ["--tasks", "local_questions,local_text,local_answers", "--include_path", str(tmp_path)]
        command += ["--output_path", str(tmp_path / model), "--log_samples", "--device", "cpu", *more]
        home = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        (results,) = (tmp_path / model).rglob("results*.json")
        samples = [
            json.loads(line)
            for path in sorted((tmp_path / model).rglob("samples_local_questions*"))
            for line in path.open()
        ]
        return json.loads(results.read_text()), samples

    found, our_samples = run("dca", f"path={gguf},cache_type=f32")
    wanted, their_samples = run("hf", f"pretrained={directory},dtype=float32")
    for task, metric in (
        ("local_questions", "acc"),
        ("local_text", "word_perplexity"),
        ("local_answers", "exact_match"),
    ):
        values = [results["results"][task][f"{metric},none"] for results in (found, wanted)]
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    for ours_, theirs_ in zip(our_samples, their_samples, strict=True):
        scores = [[float(pair[0][0]) for pair in each["resps"]] for each in (ours_, theirs_)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_wrong_argument_is_said(gguf):
    lm = get_model("dca")
    with pytest.raises(InputError, match="path="):
        lm.create_from_arg_string("device=cpu")
    with pytest.raises(InputError, match="CHUNK/WINDOW/LENGTH"):
        lm.create_from_arg_string(f"path={gguf},scheme=5", {"device": "cpu"})


def test_python_starts_without_the_harness(tmp_path):
    """The line that Python reads at its start imports nothing and harms nothing."""
    code = "import sys; assert not {'lm_eval', 'torch', 'dca_runtime', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    line = (Path(__file__).parents[2] / "dca_export_harness.pth").read_text().strip()
    assert line == "import dca_export.harness.startup"
