"""Exports from a GGUF file: new keys over the same tensors, and files that are refused."""

import os

import gguf
import numpy as np
import pytest

import dca_runtime
from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.write import export_model
from dca_export.gguf.copy import Copy
from dca_export.gguf.file import GgufFile, packed_value
from dca_export.scheme import Scheme


def test_gguf_gets_keys_and_keeps_its_tensors(tmp_path, tiny_gguf):
    source = tiny_gguf(dtype="q4_1", tokenizer=True)
    exported = export_model(source, tmp_path / "out.gguf")
    before, after = GgufFile(source), GgufFile(tmp_path / "out.gguf")
    added = {
        "llama.attention.dca.chunk_size": 48,
        "llama.attention.dca.local_window": 16,
        "llama.attention.dca.pretraining_length": 64,
    }
    assert dict(after) == dict(before) | added
    for a, b in zip(
        gguf.GGUFReader(source).tensors, gguf.GGUFReader(tmp_path / "out.gguf").tensors, strict=True
    ):
        assert (a.name, a.tensor_type, a.data.tobytes()) == (b.name, b.tensor_type, b.data.tobytes())
    assert exported.summary.bytes == sum(t.nbytes for t in before.tensors)


def test_a_gguf_aligned_to_less_than_the_runtime_takes_is_copied_to_more(tmp_path, tiny_gguf):
    file = GgufFile(tiny_gguf())
    entries = {key: file.value_bytes(key) for key in file}
    entries["general.alignment"] = packed_value(gguf.GGUFValueType.UINT32, 4)
    with open(tmp_path / "four.gguf", "wb") as out:
        Copy(entries, tuple((file, tensor) for tensor in file.tensors), 4).write(
            out, lambda done, total: None
        )
    export_model(tmp_path / "four.gguf", tmp_path / "out.gguf")
    with dca_runtime.Model(tmp_path / "out.gguf") as model:
        assert model.metadata["general.alignment"] == 8


def test_gguf_scheme_is_kept_replaced_and_removed(tmp_path, tiny_gguf):
    source = tiny_gguf(scheme=(12, 4, 16, 0.5, 99))

    def scheme(name: str, **options) -> Scheme | None:
        asked = ExportOptions(scheme=SchemeOptions(**options))
        export_model(source, tmp_path / name, asked)
        with dca_runtime.Model(tmp_path / name, device="cpu", context=64) as model:
            return model.scheme and tuple(model.scheme)[:3]

    assert scheme("kept.gguf") == (12, 4, 16)
    assert scheme("replaced.gguf", chunk_size=10, local_window=6) == (10, 6, 16)
    assert scheme("removed.gguf", dca=False) is None
    assert not [key for key in GgufFile(tmp_path / "removed.gguf") if "dca" in key]


def test_gguf_can_replace_itself(tmp_path, tiny_gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_gguf().read_bytes())
    export_model(path, path, force=True)
    assert GgufFile(path)["llama.attention.dca.chunk_size"] == 48


def test_gguf_of_an_unknown_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.add_tensor("t", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="architecture mamba is not supported; supported are llama, qwen2"):
        export_model(tmp_path / "mamba.gguf", tmp_path / "out.gguf")


def test_a_gguf_that_changes_meanwhile_is_noticed(tmp_path, tiny_gguf):
    source = tmp_path / "model.gguf"
    source.write_bytes(tiny_gguf().read_bytes())
    with pytest.raises(InputError, match="model.gguf: was changed while it was read"):
        export_model(source, tmp_path / "out.gguf", progress=lambda done, total: os.utime(source))
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M", "TQ2_0", "F64"])
def test_a_type_the_runtime_cannot_run_is_named(tmp_path, kind):
    number = gguf.GGMLQuantizationType[kind]
    values, size = gguf.GGML_QUANT_SIZES[number]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    data = np.zeros((2, 256 // values * size), np.uint8)
    writer.add_tensor("blk.0.ffn_down.weight", data, raw_dtype=number)
    finish(writer)
    with pytest.raises(
        InputError, match=f"blk.0.ffn_down.weight is of type {kind}, which dca-run cannot run"
    ):
        export_model(tmp_path / "m.gguf", tmp_path / "out.gguf")


def test_experts_apart_are_said_to_be_an_old_file(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.ffn_gate.3.weight", np.zeros((4, 4), np.float32))
    finish(writer)
    with pytest.raises(InputError, match="blk.0.ffn_gate.3.weight is one expert, as files of the first"):
        export_model(tmp_path / "m.gguf", tmp_path / "out.gguf")


def test_a_bias_the_runtime_would_leave_out_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.bias", np.zeros(4, np.float32))
    writer.add_tensor("blk.11.attn_q_a.bias", np.zeros(4, np.float32))
    finish(writer)
    with pytest.raises(InputError, match="tensor blk.11.attn_q_a.bias is a bias that dca-run does not know"):
        export_model(tmp_path / "m.gguf", tmp_path / "out.gguf")


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
