"""Exports that fail half way: no file is left, none that was there is lost."""

import os
import resource
import shutil
import signal

import numpy as np
import pytest
from tiny_hf import write_tiny_model
from written import read

from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.write import export_model


def test_a_value_found_half_way_leaves_no_file(tmp_path):
    write_tiny_model(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    stored = bytearray(path.read_bytes())
    stored[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(stored)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="tensor lm_head.weight cannot encode as Q8_0: .* is nan"):
        export_model(tmp_path / "m", tmp_path / "out" / "out.gguf", ExportOptions("q8_0"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_a_full_disk_leaves_no_file_and_keeps_the_old_one(tmp_path, tiny_gguf, kind):
    write_tiny_model(tmp_path / "m")
    source = tmp_path / "m" if kind == "directory" else tiny_gguf()
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "out.gguf"
    output.write_text("the old one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing on fails like a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            export_model(source, output, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in output.parent.iterdir()] == ["out.gguf"]
    assert output.read_text() == "the old one"


def test_an_output_that_exists_is_kept(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(InputError, match="already exists; use --force"):
        export_model(tmp_path / "m", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"
    export_model(tmp_path / "m", tmp_path / "out.gguf", force=True)
    assert len(read(tmp_path / "out.gguf")[1]) == 21


def test_a_part_that_exists_is_kept(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "out-00002-of-00005.gguf").write_text("mine")
    with pytest.raises(InputError, match="out-00002-of-00005.gguf: already exists"):
        export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32", split_bytes=100_000))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out-00002-of-00005.gguf"]


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["in place", "replaced", "removed"])
def test_a_source_that_changes_meanwhile_is_noticed(tmp_path, changed, how):
    write_tiny_model(tmp_path / "m")
    path = tmp_path / "m" / changed

    def change(done: int, total: int) -> None:
        if how == "removed":
            path.unlink(missing_ok=True)
        elif how == "in place":
            with open(path, "r+b") as file:
                file.write(path.read_bytes()[:1])
            os.utime(path)
        elif done < 50_000:
            os.replace(shutil.copyfile(path, tmp_path / "other"), path)

    (tmp_path / "out").mkdir()
    with pytest.raises((InputError, FileNotFoundError), match=f"{changed}: was changed|No such file"):
        export_model(tmp_path / "m", tmp_path / "out" / "out.gguf", progress=change)
    assert list((tmp_path / "out").iterdir()) == []


def test_other_files_of_the_directory_may_change(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "m" / "train.log").write_text("")
    log = tmp_path / "m" / "train.log"
    export_model(tmp_path / "m", tmp_path / "out.gguf", progress=lambda *_: log.write_text("more"))
