"""Forks, and Python's end while a call runs."""

import os
import subprocess
import sys

import pytest

PREAMBLE = "import os, sys, threading, time, dca_runtime as dca\nmodel = dca.Model(sys.argv[1], threads=2)\n"


def program(source: str, path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + source, str(path)], capture_output=True, text=True, timeout=120
    )


def test_a_forked_child_is_told_to_load_the_model_itself(tiny_gguf):
    source = """
session = model.session()
session.eval([1, 2, 3])
engine = model.engine(tokens=1024)
sequence = engine.sequence()
child = os.fork()
if child == 0:
    for use in (model.session, model.engine, engine.sequence, lambda: session.eval([4])):
        try:
            use()
        except dca.DcaError as error:
            print(error, flush=True)
    own = dca.Model(sys.argv[1])
    own.session().eval([1, 2, 3])
    model.close()
    sys.exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
session.eval([4])
print("child", code)
"""
    done = program(source, tiny_gguf())
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 5 and all("load the model in the child" in line for line in lines[:4])
    assert lines[4] == "child 7"


def test_python_ends_while_a_daemon_thread_evaluates(smollm2_gguf):
    source = """
session = model.session(context=8192)
def forever():
    while True:
        session.truncate(0)
        session.append([5] * 4000)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.5)
"""
    done = program(source, smollm2_gguf)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_handlers_may_still_use_a_model(tiny_gguf):
    source = """
from dca_runtime import process
session = model.session()
process._at_exit()  # what Python calls first of all exit handlers
print(session.eval([1, 2]).shape, flush=True)
model.close()
"""
    done = program(source, tiny_gguf())
    assert (done.returncode, done.stdout, done.stderr) == (0, "(320,)\n", "")


def test_python_ends_while_a_daemon_thread_loads(smollm2_gguf):
    source = """
def forever():
    while True:
        dca.Model(sys.argv[1])
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
"""
    done = program(source, smollm2_gguf)
    assert (done.returncode, done.stderr) == (0, "")


# Paths that name no model.


@pytest.fixture
def wrong_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("empty")
    os.mkdir("checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    os.mkdir("models")
    (tmp_path / "models" / "one.gguf").write_text("")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("pipe", "no regular file"),
        ("empty", "a directory, expected a GGUF file"),
        ("checkpoint", "dca-export checkpoint checkpoint.gguf"),
        ("models", "models/one.gguf"),
        ("missing.gguf", "no such file"),
        ("", "the name of the model is empty"),
        ("Qwen/Qwen3-0.6B", "dca-export hf:Qwen/Qwen3-0.6B Qwen3-0.6B.gguf"),
    ],
)
def test_what_to_do_is_said_of_a_path_that_names_no_model(wrong_paths, path, says):
    import dca_runtime as dca

    with pytest.raises(dca.DcaError) as caught:
        dca.Model(path)
    assert says in str(caught.value) and caught.value.status == dca.Status.IO


def test_a_missing_file_is_not_taken_for_a_name_on_the_hub(wrong_paths):
    import dca_runtime as dca

    for path in ("models/two", "models/two.gguf", "/a/b", "a/b/c"):
        with pytest.raises(dca.DcaError) as caught:
            dca.Model(path)
        assert "hf:" not in str(caught.value)
