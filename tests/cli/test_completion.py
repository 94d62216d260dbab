"""--print-completion: what a shell then offers."""

import shutil
import subprocess

import pytest

from dca_export.cli import cache, export
from dca_export.cli._completion import SHELLS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def offered(tmp_path, capsys):
    """``offered(main, words)``: what bash offers for the last of the words."""

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


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell, capsys):
    assert export.main(["--print-completion", shell]) == 0
    assert "dca-export" in capsys.readouterr().out
