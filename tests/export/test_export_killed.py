"""An export killed (kill -9) at any moment leaves no half output, and the next one clears what it left."""

from pathlib import Path

import pytest
from killing import killed_at_random
from tiny_hf import write_tiny_model

from dca_export.export.output_file import write_file
from dca_export.export.plan import ExportOptions
from dca_export.export.write import export_model


def export(source: Path, output: Path) -> None:
    export_model(source, output, ExportOptions(outtype="q8_0"), force=True)


@pytest.fixture
def checkpoint(tmp_path):
    write_tiny_model(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("there", [True, False])
def test_a_checkpoint(tmp_path, checkpoint, there):
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "model.gguf"
    export(checkpoint, output)
    whole = output.read_bytes()
    for finished in killed_at_random(lambda: export(checkpoint, output)):
        if output.exists():
            assert output.read_bytes() in ([whole] if finished or not there else [whole, b"before"])
        assert output.exists() or not (finished or there)
        output.unlink(missing_ok=True)
        if there:
            output.write_bytes(b"before")
    export(checkpoint, output)
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]
    assert output.read_bytes() == whole


def test_a_copy_of_a_gguf_file(tmp_path, checkpoint):
    folder = tmp_path / "out"
    folder.mkdir()
    export(checkpoint, tmp_path / "source.gguf")
    output = folder / "model.gguf"

    def copy() -> None:
        export_model(tmp_path / "source.gguf", output, ExportOptions(), force=True)

    copy()
    whole = output.read_bytes()
    for _ in killed_at_random(copy):
        assert output.read_bytes() == whole
    copy()
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]


def test_a_report(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"before")
    after = b"after" * 100_000
    for _ in killed_at_random(lambda: write_file(path, after), rounds=60):
        assert path.read_bytes() in (b"before", after)
        path.write_bytes(b"before")
    write_file(path, after)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
