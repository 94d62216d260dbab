"""The wrapper that every command runs in."""

import json
import os
import subprocess
import sys

import pytest

from dca_export.cli.shared import argument_types, command, display, outputs
from dca_export.errors import InputError
from dca_runtime.errors import DcaError, Status


def run_body(body, argv=()):
    parser = command.command_parser("dca-thing", "Does the thing.", example="dca-thing --size 3")
    parser.add_argument("--size", type=argument_types.positive_int, default=1)
    return command.run(parser, body, list(argv))


def failing(error):
    def body(arguments):
        raise error

    return body


@pytest.mark.parametrize("code", [command.EXIT_OK, command.EXIT_CHECK_FAILED])
def test_body_decides_the_exit_code(code):
    assert run_body(lambda arguments: code) == code


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("x.gguf: no such\nkey"), "dca-thing: x.gguf: no such key", 2),
        (DcaError("bad file", Status.FORMAT), "dca-thing: bad file", 2),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            "dca-thing: x: No such file or directory",
            2,
        ),
        (OSError("disk on fire"), "dca-thing: disk on fire", 2),
        (MemoryError("8 GiB"), "dca-thing: not enough memory (8 GiB)", 2),
        (MemoryError(), "dca-thing: not enough memory", 2),
        (KeyboardInterrupt(), "dca-thing: interrupted", 130),
    ],
)
def test_expected_errors_are_one_line(error, line, code, capsys):
    assert run_body(failing(error)) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("typed", [["--size", "3"], ["--size=3"]])
def test_an_error_about_a_value_names_the_option_that_was_typed(typed, capsys):
    run_body(failing(DcaError("size must be 1 or 2, got 3", Status.ARGUMENT)), typed)
    assert capsys.readouterr().err == "dca-thing: argument --size: size must be 1 or 2, got 3\n"


@pytest.mark.parametrize("message", ["size must be 1 or 2, got 3", "None of its keys is there"])
def test_an_error_about_no_value_that_was_typed_stays(message, capsys):
    run_body(failing(DcaError(message, Status.ARGUMENT)))
    assert capsys.readouterr().err == f"dca-thing: {message}\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_body(failing(ZeroDivisionError()))


@pytest.mark.parametrize(
    "argv", [["--size", "0"], ["--size", "many"], ["--size", "2147483648"], ["--colour", "red"]]
)
def test_bad_usage_is_one_line_and_2(argv, capsys):
    assert run_body(lambda arguments: 0, argv) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and argv[1] in errors


def test_help_ends_with_the_example(capsys):
    assert run_body(lambda arguments: 1, ["--help"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("dca-thing --size 3")


def test_progress_is_silent_in_a_pipe(capsys):
    with display.progress_bar("reading") as update:
        update(1, 2)
        update(2, 2, description="done")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_closed_pipe_is_no_error():
    program = (
        "import sys\n"
        "from dca_export.cli.shared import command\n"
        "def body(arguments):\n"
        "    for _ in range(100000): print('line')\n"
        "    return 0\n"
        "sys.exit(command.run(command.command_parser('dca-thing', '', ''), body, []))\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 0
    assert errors == b""


def test_table_is_not_cut_in_a_pipe(capsys):
    name = "a" * 150
    display.print_table(["name", "[value]"], [[name, "1.5"]])
    printed = capsys.readouterr().out
    assert name in printed and "[value]" in printed


def test_json_to_a_file_is_whole_and_has_no_nan(tmp_path):
    path = tmp_path / "figures.json"
    outputs.write_json([{"nll": float("nan"), "tokens": 3}, (float("inf"),)], str(path))
    assert json.loads(path.read_text()) == [{"nll": None, "tokens": 3}, [None]]
    assert os.listdir(tmp_path) == ["figures.json"]


def test_json_to_stdout(capsys):
    outputs.write_json({"tokens": 3}, "-")
    assert json.loads(capsys.readouterr().out) == {"tokens": 3}


def test_a_name_of_a_stranger_reaches_the_terminal_short_and_without_commands(capsys):
    def body(arguments):
        raise InputError("m.safetensors: tensor \x1b[31m\u202e" + "x" * 100_000 + " has no place")

    assert command.run(command.command_parser("dca-thing", "", ""), body, []) == 2
    errors = capsys.readouterr().err
    assert "\x1b" not in errors and "\u202e" not in errors
    assert len(errors) < 2100 and errors.rstrip().endswith("has no place")
