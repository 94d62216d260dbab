"""--print-completion: what a shell then offers."""

import importlib
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dca_export.cli import cache, export
from dca_export.cli.shared.completion import SHELLS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMMANDS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
READ_ONLY = {"bash": ["-n"], "zsh": ["-n"], "fish": ["--no-execute"], "tcsh": ["-f"]}  # tcsh only declares


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")


@pytest.fixture
def offered(tmp_path, capsys):
    """``offered(main, words)``: what bash offers for the last of the words."""
    needs("bash")

    def offered(main, words: list[str]) -> set[str]:
        assert main(["--print-completion", "bash"]) == 0
        script = tmp_path / "completion.bash"
        script.write_text(capsys.readouterr().out)
        ask = f"""
            source {script}
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
            $function "$1" "${{@: -1}}" 2>/dev/null
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", ask, "bash", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return {line.strip() for line in done.stdout.splitlines() if line.strip()}

    return offered


def test_options(offered):
    assert offered(export.main, ["dca-export", "--outt"]) == {"--outtype"}


def test_choices(offered):
    assert {"gguf", "hf"} <= offered(export.main, ["dca-export", "--format", ""])


def test_subcommands(offered):
    assert offered(cache.main, ["dca-cache", "p"]) == {"prune"}


def test_files(offered, tmp_path):
    (tmp_path / "tuned.gguf").touch()
    assert offered(export.main, ["dca-export", "tun"]) == {"tuned.gguf"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_reads_the_script_of_every_command(shell, command, tmp_path, capsys):
    module, _, main = COMMANDS[command].partition(":")
    assert getattr(importlib.import_module(module), main)(["--print-completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert command in script.read_text()
    needs(shell)
    done = subprocess.run([shell, *READ_ONLY[shell], script], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_fish_offers_options_choices_and_files(tmp_path, capsys):
    needs("fish")
    assert export.main(["--print-completion", "fish"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "tuned.gguf").touch()
    asked = ["dca-export --outt", "dca-export --format ", "dca-export tun"]
    program = "source script; " + "; ".join(f"complete -C '{words}'" for words in asked)
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {
        "--outtype",
        "gguf",
        "hf",
        "tuned.gguf",
    }
