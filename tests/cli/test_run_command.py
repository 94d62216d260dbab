"""dca-run: what it prints."""

import io
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
        (["-p", "x", "--top-p", "3"], "top_p"),
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
