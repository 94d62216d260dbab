"""dca-run: what it prints."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from dca_export.cli.run import main


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16))


def greedy_text(path, prompt, count, **options) -> str:
    import dca_runtime as dca

    with dca.Model(path) as model, model.session(**options) as session:
        return "".join(model.generate(prompt, count, session, temperature=0.0))


def test_prints_what_the_library_generates(path, capsys):
    assert main([path, "-p", "the in the", "-n", "12", "--temp", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.out == greedy_text(path, "the in the", 12) + "\n"
    assert printed.err == ""


def test_options_reach_the_session(path, capsys):
    prompt = "the " * 30
    options = ["--attention", "plain", "--cache-type", "f32", "--threads", "1", "--device", "cpu"]
    assert main([path, "-p", prompt, "-n", "12", "--temp", "0", *options]) == 0
    plain = capsys.readouterr().out
    assert plain == greedy_text(path, prompt, 12, attention="plain", cache_type="f32") + "\n"
    assert plain != greedy_text(path, prompt, 12) + "\n"


@pytest.mark.parametrize("attention", ["string:8/2", "streaming:2/8", "lm-infinite:2/8"])
def test_a_border_reaches_the_session(path, capsys, attention):
    prompt = "the cat and the hat and the cat "
    options = ["--attention", attention, "--cache-type", "f32", "--temp", "0", "--device", "cpu"]
    assert main([path, "-p", prompt, "-n", "12", *options]) == 0
    found = capsys.readouterr().out
    assert found == greedy_text(path, prompt, 12, attention=attention, cache_type="f32") + "\n"


def test_no_repack_leaves_the_weights_in_the_file(path, monkeypatch, capsys):
    import dca_runtime as dca

    repacked = []

    class Watched(dca.Model):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            repacked.append(self.info.repacked_bytes)

    monkeypatch.setattr("dca_runtime.Model", Watched)
    for options in ([], ["--no-repack"]):
        assert main([path, "-p", "the", "-n", "2", "--device", "cpu", *options]) == 0
    assert repacked[0] > 0 == repacked[1]


def test_a_seed_repeats(path, capsys):
    texts = []
    for seed in ["1", "1", "2"]:
        assert main([path, "-p", "the", "-n", "12", "--temp", "2", "--min-p", "0", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_prompt_from_a_file_and_from_stdin(path, tmp_path, capsys, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_text("the in the", encoding="utf-8")
    wanted = greedy_text(path, "the in the", 5) + "\n"
    assert main([path, "-f", str(file), "-n", "5", "--temp", "0"]) == 0
    assert capsys.readouterr().out == wanted
    monkeypatch.setattr(sys, "stdin", io.StringIO("the in the"))
    assert main([path, "-f", "-", "-n", "5", "--temp", "0"]) == 0
    assert capsys.readouterr().out == wanted


def test_chat_uses_the_template(smollm2_gguf, capsys):
    question = "What is the capital of France?"
    assert main([str(smollm2_gguf), "--chat", "-p", question, "-n", "30", "--temp", "0"]) == 0
    assert "Paris" in capsys.readouterr().out


def test_a_system_message_changes_the_prompt(path, capsys):
    chat = [path, "--chat", "-p", "the", "-n", "10", "--temp", "0"]
    assert main(chat) == 0
    without = capsys.readouterr().out
    assert main([*chat, "--system", "in the in the"]) == 0
    assert capsys.readouterr().out != without


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a prompt"),
        (["--chat"], "needs a terminal"),
        (["-p", "x", "--system", "y"], "--system needs --chat"),
        (["-p", "x", "-f", "y"], "not allowed"),
        (["-p", ""], "prompt is empty"),
        (["-p", "the " * 40, "--context", "16"], "16"),
        (["-p", "the", "-n", "40", "--context", "16", "--temp", "0"], "context of 16 tokens is full"),
        (["-p", "x", "--temp", "-1"], "--temp"),
        (["-p", "x", "--top-p", "3"], "argument --top-p: top_p"),
        (["-p", "x", "--context", "9" * 12], "argument --context"),
        (["-p", "caf\udce9"], "not UTF-8 text (byte 3)"),
        (["caf\udce9"], "not UTF-8 text (byte 3)"),
        (["-p", "x", "--device", "cuda:x"], "cuda:x"),
        (["-f", "no-such-file.txt"], "no-such-file.txt"),
    ],
)
def test_bad_usage_is_one_line_and_2(path, capsys, monkeypatch, arguments, says):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main([path, *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and says in errors


def test_a_file_that_is_not_text(path, tmp_path, capsys):
    file = tmp_path / "prompt.bin"
    file.write_bytes(b"ab\xff")
    assert main([path, "-f", str(file)]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_missing_model(capsys):
    assert main(["no-such-model.gguf", "-p", "x"]) == 2
    assert "no-such-model.gguf" in capsys.readouterr().err


# Questions and documents.


def test_a_question_is_put_into_the_template(path, capsys):
    for question in (["the in"], ["--chat", "-p", "the in"]):
        assert main([path, *question, "-n", "5", "--temp", "0"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_question_about_documents(path, tmp_path, capsys):
    import dca_runtime as dca

    texts = {"one.txt": "the<|im_end|>a ", "two.txt": "in the"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    documents = [part for name in texts for part in ("--doc", str(tmp_path / name))]
    assert main([path, *documents, "in", "-n", "5", "--temp", "0"]) == 0
    content = "".join(f"{name}:\n\n{text}\n\n" for name, text in texts.items()) + "in"
    with dca.Model(path) as model:
        answer = "".join(model.chat([{"role": "user", "content": content}], 5, temperature=0.0))
    assert capsys.readouterr().out == answer + "\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--doc", "no-such-file.txt", "the"], "no-such-file.txt"),
        (["the", "-p", "in"], "does not go with -p"),
        (["the", "in"], "unrecognized"),
        (["-p", "x", "-n", "-2"], "-n"),
    ],
)
def test_wrong_questions_are_one_line_and_2(path, capsys, arguments, says):
    assert main([path, *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and says in errors


def test_minus_one_token_is_all_the_context_holds(path, capsys):
    assert main([path, "-p", "the", "-n", "-1", "--context", "12", "--temp", "0"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfthe in\nthe", b"the in\r\nthe"])
def test_a_prompt_file_may_come_from_windows(path, tmp_path, capsys, data):
    (tmp_path / "prompt.txt").write_bytes(data)
    assert main([path, "-f", str(tmp_path / "prompt.txt"), "-n", "5", "--temp", "0"]) == 0
    assert capsys.readouterr().out == greedy_text(path, "the in\nthe", 5) + "\n"


def test_the_files_sampling_is_used_and_flags_override_it(path, monkeypatch, capsys):
    from dca_runtime.model_file.metadata import Metadata

    original = Metadata.__getitem__
    stated = {"general.sampling.top_k": 1}  # greedy, in other words
    monkeypatch.setattr(Metadata, "__getitem__", lambda self, key: stated.get(key) or original(self, key))
    monkeypatch.setattr(Metadata, "__contains__", lambda self, key: key in stated or key in self._entries)
    assert main([path, "-p", "the in the", "-n", "12"]) == 0
    assert capsys.readouterr().out == greedy_text(path, "the in the", 12) + "\n"
    assert main([path, "-p", "the in the", "-n", "12", "--top-k", "0", "--temp", "5", "--seed", "1"]) == 0
    assert capsys.readouterr().out != greedy_text(path, "the in the", 12) + "\n"


def test_a_prompt_too_long_for_plain_attention_is_warned_of(path, capsys):
    assert main([path, "-p", "the " * 30, "-n", "2", "--attention", "plain"]) == 0
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and errors.startswith("dca-run: warning: ") and "dca-export" in errors


# However it is started.


PROGRAM = "import sys; from dca_export.cli.run import main; sys.exit(main())"


def started(redirection: str, *arguments: str) -> subprocess.CompletedProcess:
    """A dca-run of its own, started by a shell with its streams redirected."""
    command = f"{shlex.join([sys.executable, '-c', PROGRAM, *arguments])} {redirection}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("redirection", "arguments", "code"),
    [
        (">&-", ["-p", "the"], 0),
        ("2>&-", ["-p", "the"], 0),
        ("<&-", ["-f", "-"], 2),
        ("<&-", ["--chat"], 2),
        ("2>&-", ["-p", "x", "--top-p", "3"], 2),
        ("2>/dev/full", ["-p", "x", "--top-p", "3"], 2),
        ("2>/dev/full", ["--no-such-option"], 2),
        ("", ["-f", "~no-such-user/x"], 2),
        (">/dev/full", ["-p", "the"], 2),
        ("<&- >&- 2>&-", ["-p", "the"], 0),
    ],
)
def test_closed_and_full_streams_give_no_traceback(path, redirection, arguments, code):
    done = started(redirection, path, *arguments, "-n", "2", "--temp", "0")
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr.count("\n") <= 1


def test_output_that_the_encoding_lacks_is_replaced(smollm2_gguf):
    environment = {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(smollm2_gguf),
            "-p",
            "今天天气很好。今天",
            "-n",
            "12",
            "--temp",
            "0",
        ],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )
    assert (done.returncode, done.stderr) == (0, b"")
