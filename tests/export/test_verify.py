"""Verification: right files pass, and each way of being wrong is found and named."""

import gguf
import numpy as np
import pytest
from tiny_hf import write_tiny_model

from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.recipes import RECIPES
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.verify import MOST_ERROR, verify
from dca_export.export.write import export_model
from dca_export.gguf.file import GgufFile


@pytest.fixture
def exported(tmp_path):
    """A function that exports a tiny model and returns (directory, file)."""

    def export(outtype: str = "f32", **changes):
        write_tiny_model(tmp_path / "m", "BF16", **changes)
        export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions(outtype))
        return tmp_path / "m", tmp_path / "out.gguf"

    return export


def overwrite(path, name: str, data: bytes, skip: int = 0) -> None:
    start = next(tensor.start for tensor in GgufFile(path).tensors if tensor.name == name)
    with open(path, "r+b") as file:
        file.seek(start + skip)
        file.write(data)


@pytest.mark.parametrize("outtype", sorted(RECIPES))
def test_every_outtype_passes_with_room(exported, outtype):
    directory, path = exported(outtype, hidden_size=256, intermediate_size=512, head_dim=64)
    report = verify(path, directory)
    assert report.problems == []
    assert report.tensors == 21
    for name, found in report.types.items():
        assert found.worst <= MOST_ERROR[gguf.GGMLQuantizationType[name]] / 1.5


def test_bf16_to_f32_is_exact(exported):
    directory, path = exported("f32")
    assert verify(path, directory).types["F32"].worst == 0.0


def test_scheme_flags_do_not_matter(tmp_path):
    write_tiny_model(tmp_path / "m", rope_scaling={"type": "dynamic", "factor": 2.0})
    for number, scheme in enumerate((SchemeOptions(dca=False), SchemeOptions(pretraining_length=512))):
        export_model(tmp_path / "m", tmp_path / f"{number}.gguf", ExportOptions("f16", scheme))
        assert verify(tmp_path / f"{number}.gguf", tmp_path / "m").problems == []


def test_split_files(tmp_path):
    write_tiny_model(tmp_path / "m")
    files = export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f32", split_bytes=100_000)).files
    report = verify(files[0], tmp_path / "m")
    assert (report.problems, report.tensors) == ([], 21)


def test_progress_ends_at_the_end(exported):
    directory, path = exported()
    seen: list[tuple[int, int]] = []
    verify(path, directory, lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1] == sum(tensor.nbytes for tensor in GgufFile(path).tensors)


def test_one_wrong_value(exported):
    directory, path = exported("f32")
    overwrite(path, "blk.1.ffn_up.weight", np.float32(3).tobytes(), skip=400)
    problems = verify(path, directory).problems
    assert len(problems) == 1
    assert problems[0].startswith("tensor blk.1.ffn_up.weight (F32) is off by")


def test_rows_in_another_order(exported):
    directory, path = exported("q8_0")
    q = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.weight").data
    overwrite(path, "blk.0.attn_q.weight", q[::-1].tobytes())
    assert "blk.0.attn_q.weight (Q8_0) is off by 1." in verify(path, directory).problems[0]


def test_not_a_number(exported):
    directory, path = exported("f32")
    overwrite(path, "output_norm.weight", np.float32(np.nan).tobytes())
    assert "output_norm.weight (F32) is off by nan" in verify(path, directory).problems[0]


def test_missing_and_surplus_tensors(exported, tmp_path):
    _, path = exported("f32")
    write_tiny_model(tmp_path / "tied", "BF16", tie_word_embeddings=True)
    assert "tensor output.weight is in no source" in verify(path, tmp_path / "tied").problems
    export_model(tmp_path / "tied", tmp_path / "tied.gguf", ExportOptions("f32"))
    assert "tensor output.weight is missing" in verify(tmp_path / "tied.gguf", tmp_path / "m").problems


def test_other_shapes_and_hyperparameters(exported, tmp_path):
    _, path = exported("f32")
    write_tiny_model(tmp_path / "wide", "BF16", intermediate_size=128, rms_norm_eps=1e-6)
    problems = verify(path, tmp_path / "wide").problems
    assert "tensor blk.0.ffn_up.weight has shape [96, 64], not [128, 64]" in problems
    assert "llama.feed_forward_length is 96, the source implies 128" in problems
    assert any(problem.startswith("llama.attention.layer_norm_rms_epsilon is") for problem in problems)


def test_copies(tmp_path, tiny_gguf):
    source = tiny_gguf(dtype="q4_0")
    export_model(source, tmp_path / "out.gguf")
    assert verify(tmp_path / "out.gguf", source).problems == []
    overwrite(tmp_path / "out.gguf", "output.weight", b"\x01\x02", skip=50)
    problems = verify(tmp_path / "out.gguf", source).problems
    assert problems == ["tensor output.weight has other bytes than in the source"]


def test_copy_of_another_type(tiny_gguf):
    problems = verify(tiny_gguf(dtype="q8_0"), tiny_gguf(dtype="f16")).problems
    assert "tensor output.weight is Q8_0, not F16" in problems


def test_a_file_that_is_none(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "out.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="truncated"):
        verify(tmp_path / "out.gguf", tmp_path / "m")
