"""Commands that are given names on the Hub, against a server on this machine that speaks its API."""

import os
import subprocess
import sys

import pytest
from hub_server import Repository, serving
from tiny_hf import write_tiny_model

from dca_export.gguf.file import GgufFile
from dca_export.gguf.scheme_keys import read_scheme


@pytest.fixture
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture
def command(hub, tmp_path):
    """``command(module, *arguments, **environment)`` runs a command in a process with a cache of its own."""

    def run(module, *arguments, **environment):
        own = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        }
        code = f"import sys; from dca_export.cli.{module} import main; sys.exit(main(sys.argv[1:]))"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=kept | own | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """The files of a small checkpoint by name."""
    write_tiny_model(tmp_path / "checkpoint")
    return {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir() if path.is_file()}


@pytest.fixture
def gguf(tiny_gguf):
    return tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16).read_bytes()


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def failed(done, *said):
    """It ended with 2 and one line that says all of that."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    for each in said:
        assert each in done.stderr
    return done


def fetched(hub):
    return {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}


def test_a_gguf_file_is_run(hub, command, gguf):
    hub.repositories["org/name"] = Repository(
        {"main": {"m-Q8_0.gguf": gguf, "m-F32.gguf": b"x", "README.md": b"x"}}
    )
    done = succeeded(command("run", "hf:org/name", "-p", "the", "-n", 3, "--temp", 0, "--device", "cpu"))
    assert done.stdout
    assert fetched(hub) == {"m-Q8_0.gguf"}
    hub.asked.clear()
    again = succeeded(command("run", "hf:org/name", "-p", "the", "-n", 3, "--temp", 0, "--device", "cpu"))
    assert again.stdout == done.stdout and fetched(hub) == set()


def test_the_cache_serves_without_the_hub(hub, command, gguf):
    hub.repositories["org/name"] = Repository({"main": {"a/m.gguf": gguf}})
    online = succeeded(
        command("run", "hf:org/name/a/m.gguf", "-p", "the", "-n", 3, "--temp", 0, "--device", "cpu")
    )
    hub.asked.clear()
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = command(
            "run", "hf:org/name", "-p", "the", "-n", 3, "--temp", 0, "--device", "cpu", **environment
        )
        assert succeeded(done).stdout == online.stdout
    assert hub.asked == []
    failed(
        command("run", "hf:org/other", "-p", "the", HF_HUB_OFFLINE="1"),
        "hf:org/other",
        "HF_HUB_OFFLINE is set",
    )
    failed(command("run", "hf:org/other", "-p", "the", HF_ENDPOINT="http://127.0.0.1:9"), "cannot be reached")


def test_a_checkpoint_is_exported_once_for_running(hub, command, checkpoint, tmp_path):
    hub.repositories["org/name"] = Repository(
        {"main": checkpoint | {"model.onnx": b"x", "training_args.bin": b"x"}}
    )
    first = succeeded(command("bench", "hf:org/name", "-p", 4, "-n", 2, "-r", 1, "--device", "cpu"))
    assert "4" in first.stdout and not fetched(hub) & {"model.onnx", "training_args.bin"}
    made = list((tmp_path / "xdg").rglob("*.gguf"))
    assert [path.name for path in made] == ["name.gguf"]
    state = made[0].stat()
    hub.asked.clear()
    succeeded(command("bench", "hf:org/name", "-p", 4, "-n", 2, "-r", 1, "--device", "cpu"))
    assert made[0].stat() == state or made[0].stat().st_mtime_ns == state.st_mtime_ns
    assert fetched(hub) == set()


def test_an_export_records_the_commit(hub, command, checkpoint, tmp_path):
    newer = checkpoint | {"README.md": b"newer"}
    hub.repositories["org/name"] = Repository({"main": newer, "v1": checkpoint})
    for revision in ("main", "v1"):
        output = tmp_path / f"{revision}.gguf"
        succeeded(command("export", f"hf:org/name@{revision}", output))
        file = GgufFile(output)
        assert file["general.source.huggingface.repository"] == "org/name"
        commit = hub.repositories["org/name"].commit(revision)
        assert file["general.source.huggingface.revision"] == commit
        assert read_scheme(file, "") is not None
        succeeded(command("export", "--verify", output, f"hf:org/name@{commit}"))


def test_a_gguf_file_of_the_hub_gets_a_scheme(hub, command, tiny_gguf, tmp_path):
    plain = tiny_gguf(tokenizer=True, context_length=16).read_bytes()
    hub.repositories["org/name"] = Repository({"main": {"m.gguf": plain}})
    succeeded(command("export", "hf:org/name/m.gguf", tmp_path / "out.gguf"))
    file = GgufFile(tmp_path / "out.gguf")
    assert file["general.source.huggingface.file"] == "m.gguf"
    assert read_scheme(file, "").pretraining_length == 16
    succeeded(command("export", "--verify", tmp_path / "out.gguf", "hf:org/name/m.gguf"))


def test_a_broken_download_goes_on_where_it_was(hub, command):
    """huggingface_hub keeps pieces of 10 MiB, and tries again by itself."""
    hub.repositories["org/name"] = Repository({"main": {"m.gguf": b"no model" * (3 << 20)}})
    hub.cut = 15 << 20
    failed(command("run", "hf:org/name", "-p", "the", "--device", "cpu"), "not a GGUF file")
    ranges = [line for line in hub.asked if "bytes=" in line]
    assert ranges == ["GET /org/name/resolve/main/m.gguf bytes=10485760-"]


def test_what_is_not_there_is_said(hub, command, gguf):
    hub.repositories["org/name"] = Repository({"main": {"m.gguf": gguf}})
    hub.repositories["org/gated"] = Repository({"main": {"m.gguf": gguf}}, gated=True)
    hub.repositories["org/empty"] = Repository({"main": {"README.md": b"x"}})
    hub.repositories["org/evil"] = Repository({"main": {}}, listed=("../../../evil.gguf",))
    failed(command("run", "hf:org/none", "-p", "the"), "hf:org/none: there is no model org/none on the Hub")
    failed(command("run", "hf:org/name@v9", "-p", "the"), "org/name has no revision v9")
    failed(command("run", "hf:org/name/x.gguf", "-p", "the"), "has no file x.gguf; it has m.gguf")
    failed(
        command("run", "hf:org/gated", "-p", "the"),
        "hf:org/gated: access is granted on https://",
        "hf auth login",
    )
    failed(command("run", "hf:org/empty", "-p", "the"), "holds no GGUF file")
    failed(command("run", "hf:org/evil", "-p", "the"), "not taken from strangers")
    failed(command("export", "hf:org/empty", "out.gguf"), "holds no checkpoint")
    failed(command("run", "hf:nothing", "-p", "the"), "expected hf:ORGANISATION/NAME")
    failed(command("eval", "passkey", "hf:org/none"), "there is no model org/none on the Hub")
    failed(command("serve", "hf:org/none"), "there is no model org/none on the Hub")


def test_an_output_that_is_there_is_said_before_anything_is_fetched(hub, command, tmp_path):
    (tmp_path / "out.gguf").write_bytes(b"x")
    failed(command("export", "hf:org/name", tmp_path / "out.gguf"), "already exists")
    assert hub.asked == []
