"""dca-export as a command: what it prints, its exit codes, and how it refuses."""

import json

import pytest
from tiny_hf import write_tiny_model

from dca_export.cli.export import main


@pytest.fixture
def model(tmp_path):
    write_tiny_model(tmp_path / "m")
    return tmp_path / "m"


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_summary(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"wrote    {tmp_path / 'out.gguf'}",
        "model    llama, 103k parameters, 206.1 kB",
        "tensors  16 F16, 5 F32",
        "trained  64 tokens (max_position_embeddings)",
        "scheme   chunk_size 48, local_window 16, pretraining_length 64 (the paper's default)",
        "context  no distance above 63 at any length; how far it reads well, and with which scheme, "
        "dca-eval sweep measures",
    ]


def test_plain_attention(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf", "--no-dca") == 0
    assert "scheme   plain attention (not wanted)\ncontext  64 tokens\n" in capsys.readouterr().out


def test_string_in_place_of_a_scheme(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf", "--string", "40/8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "scheme   STRING: border 40, local_window 8 (as asked for)" in lines
    assert "context  96 tokens without a distance that is new to the model" in lines
    assert run(model, "--verify", tmp_path / "out.gguf", "--string", "40/8") == 0
    assert run(model, "--verify", tmp_path / "out.gguf", "--string", "40/9") == 1
    assert "expected STRING: border 40, local_window 9" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--no-dca"], ["--chunk-size", 40], ["--format", "hf"]])
def test_string_goes_with_no_scheme(model, tmp_path, capsys, more):
    assert run(model, tmp_path / "out", "--string", "40/8", *more) == 2
    assert "--string" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["40", "8/40", "0/0", "a/b", "40/8/1"])
def test_a_string_that_cannot_be(model, tmp_path, capsys, text):
    assert run(model, tmp_path / "out", "--string", text) == 2
    error = capsys.readouterr().err
    assert "argument --string: " in error and error.count("\n") == 1


def test_a_pipe_gets_no_progress(model, tmp_path, capfd):
    run(model, tmp_path / "out.gguf")
    assert capfd.readouterr().err == ""


def test_json(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf", "--chunk-size", 40, "--json", "-") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["files"] == [str(tmp_path / "out.gguf")]
    assert figures["types"] == {"F16": 16, "F32": 5}
    assert figures["scheme"]["chunk_size"] == 40
    assert figures["scheme"]["local_window"] == 24


def test_dry_run_writes_nothing(model, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run(model, "--dry-run", "--outtype", "q8_0") == 0
    out = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "plan     nothing is written" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["blk.1.ffn_down.weight", "64", "x", "96", "F32", "Q8_0", "6.5", "kB"] in rows


def test_dry_run_of_a_gguf_as_json(tiny_gguf, capsys):
    assert run(tiny_gguf(dtype="q8_0"), "--dry-run", "--json", "-") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["tensors"][0] == {
        "name": "token_embd.weight",
        "shape": [320, 64],
        "from": "Q8_0",
        "to": "Q8_0",
        "bytes": 21760,
    }


def test_verify_passes(model, tmp_path, capsys):
    run(model, tmp_path / "out.gguf", "--outtype", "q8_0")
    capsys.readouterr()
    assert run("--verify", tmp_path / "out.gguf", model) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"{tmp_path / 'out.gguf'}: 21 tensors, 103k values: as the source"


def test_verify_fails(model, tmp_path, capsys):
    run(model, tmp_path / "out.gguf", "--outtype", "f32")
    write_tiny_model(tmp_path / "other", seed=1)
    capsys.readouterr()
    assert run("--verify", tmp_path / "out.gguf", tmp_path / "other", "--json", tmp_path / "r.json") == 1
    assert (
        "tensor output.weight (F32): 20,480 values are not the source's rounded once"
        in capsys.readouterr().out
    )
    assert len(json.loads((tmp_path / "r.json").read_text())["problems"]) == 21


def test_split(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf", "--split-max-size", "100k") == 0
    assert len(list(tmp_path.glob("out-0000?-of-00003.gguf"))) == 3
    assert capsys.readouterr().out.count("wrote ") == 3


def test_hugging_face_format(model, tmp_path, capsys):
    assert run(model, tmp_path / "out", "--format", "hf") == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "local_window 15" in capsys.readouterr().out


def test_dry_run_of_the_hugging_face_format(model, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run(model, tmp_path / "out", "--format", "hf", "--dry-run") == 0
    assert run(model, "--format", "hf", "--dry-run", "--json", "-") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "plan     nothing is written"
    assert "local_window 16" in lines[2]
    assert sorted(tmp_path.rglob("*")) == before


def refused(capsys, *arguments) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_one_line_errors(model, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert "no such directory" in refused(capsys, tmp_path / "absent", out)
    assert "OUT is missing" in refused(capsys, model)
    assert "chunk_size is 64, must be below" in refused(capsys, model, out, "--chunk-size", 64)
    assert "--no-dca does not go with" in refused(capsys, model, out, "--no-dca", "--chunk-size", 9)
    assert "expected a size such as" in refused(capsys, model, out, "--split-max-size", "much")
    assert "expected an integer" in refused(capsys, model, out, "--local-window", "-1")
    assert "invalid choice" in refused(capsys, model, out, "--outtype", "q9")
    assert "do not go with it" in refused(capsys, model, out, "--format", "hf", "--outtype", "f16")
    assert "--verify writes nothing" in refused(capsys, model, out, "--verify", out)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert "truncated" in refused(capsys, tmp_path / "cut.gguf", out)
    assert not out.exists()


def test_an_output_that_exists_needs_force(model, tmp_path, capsys):
    assert run(model, tmp_path / "out.gguf") == 0
    capsys.readouterr()
    assert "already exists; use --force" in refused(capsys, model, tmp_path / "out.gguf")
    assert run(model, tmp_path / "out.gguf", "--force") == 0


def test_help_has_an_example(capsys):
    assert run("--help") == 0
    assert "dca-export ./Llama-2-7b-hf llama2-dca.gguf" in capsys.readouterr().out


def test_distances_that_the_model_never_saw_are_noted(model, tmp_path, capsys):
    assert run(model, "--dry-run", "--pretraining-length", 66) == 0
    assert (
        "note     pretraining_length 66 is above the 64 tokens the model was trained on"
        in capsys.readouterr().out
    )
    assert run(model, tmp_path / "out.gguf", "--pretraining-length", 65) == 0
    assert "note" not in capsys.readouterr().out
    assert run(tmp_path / "out.gguf", tmp_path / "copy.gguf", "--pretraining-length", 128) == 0
    assert "note     pretraining_length 128 is above the 64 tokens" in capsys.readouterr().out


def test_rope_scaling_explains_longer_distances(tmp_path, capsys):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    write_tiny_model(tmp_path / "yarn", rope_scaling=scaling)
    for length, noted in ((257, False), (258, True)):
        assert run(tmp_path / "yarn", "--dry-run", "--pretraining-length", length) == 0
        assert ("pretraining_length 258 is above the 256" in capsys.readouterr().out) == noted
