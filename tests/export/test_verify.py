"""Verification: right files pass, and each way of being wrong is found and named."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from tiny_hf import tiny_config, tiny_tensors, write_safetensors, write_tiny_model

from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.recipes import RECIPES
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.verify import verify
from dca_export.export.verify.values import MOST_ERROR
from dca_export.export.write import export_model
from dca_export.gguf.copy import Copy
from dca_export.gguf.file import GgufFile, packed_value
from dca_export.scheme import Scheme, StringBorder
from dca_runtime import blocks


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
        if (kind := gguf.GGMLQuantizationType[name]) in MOST_ERROR:
            assert found.worst <= MOST_ERROR[kind] / 1.5


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
    assert problems[0].startswith(
        "tensor blk.1.ffn_up.weight (F32): 1 value is not the source's rounded once"
    )
    assert "first row 1, column 36: 3 for 0.06" in problems[0]


def test_rows_in_another_order(exported):
    directory, path = exported("q8_0")
    q = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.weight").data
    overwrite(path, "blk.0.attn_q.weight", q[::-1].tobytes())
    problem = verify(path, directory).problems[0]
    assert "blk.0.attn_q.weight (Q8_0): " in problem and "values are further off than" in problem


def test_not_a_number(exported):
    directory, path = exported("f32")
    overwrite(path, "output_norm.weight", np.float32(np.nan).tobytes())
    assert "output_norm.weight (F32): 1 value is not" in verify(path, directory).problems[0]


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
    assert any("token_embd.weight (Q8_0): 1 value is further off than" in problem for problem in problems)


def test_a_file_that_is_none(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "out.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="truncated"):
        verify(tmp_path / "out.gguf", tmp_path / "m")


# A single value.

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


@pytest.mark.parametrize("outtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("change", ["sign", "last bit"])
def test_one_bit_of_a_rounded_value(exported, outtype, change):
    directory, path = exported(outtype)
    data = next(t for t in GgufFile(path).tensors if t.name == "blk.0.attn_q.weight")
    size = data.nbytes // data.n_values
    at = 1000 * size + (size - 1 if change == "sign" else 0)
    byte = path.read_bytes()[data.start + at] ^ (0x80 if change == "sign" else 1)
    overwrite(path, data.name, bytes([byte]), skip=at)
    (problem,) = verify(path, directory).problems
    assert "1 value is not the source's rounded once" in problem


@pytest.mark.parametrize("outtype", sorted(set(RECIPES) - {"f32", "f16", "bf16"}))
def test_a_sign_in_a_block(exported, outtype):
    """The largest value of a block with its sign turned, encoded as the exporter encodes."""
    directory, path = exported(outtype, **WIDE)
    info = next(t for t in GgufFile(path).tensors if t.name == "blk.1.ffn_gate.weight")
    data = path.read_bytes()[info.start : info.start + info.nbytes]
    values = blocks.decode(info.type, np.frombuffer(data, np.uint8).reshape(info.shape[0], -1))
    values[7, np.abs(values[7]).argmax()] *= -1
    row = blocks.encode(info.type, values[7:8]).tobytes()
    overwrite(path, info.name, row, skip=7 * len(row))
    (problem,) = verify(path, directory).problems
    assert problem.startswith(f"tensor blk.1.ffn_gate.weight ({info.type.name}): ")
    assert "further off than their block explains (first row 7" in problem or "1 value is further" in problem


@pytest.mark.parametrize("outtype", ["q8_0", "q4_0", "q4_k_m", "q2_k"])
def test_a_block_of_zeros(exported, outtype):
    directory, path = exported(outtype, **WIDE)
    overwrite(path, "blk.1.ffn_gate.weight", bytes(18))
    assert any("blk.1.ffn_gate.weight" in problem for problem in verify(path, directory).problems)


@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_f64_is_rounded_once(tmp_path, outtype):
    """1 + half a step of the type + a bit that f32 cannot hold: up, though the f32 in between is a tie."""
    write_tiny_model(tmp_path / "m", "F64")
    step = {"f16": 2.0**-10, "bf16": 2.0**-7}[outtype]
    tensors = {
        name: ("F64", np.asarray(values, np.float64)) for name, values in tiny_tensors(tiny_config()).items()
    }
    tensors["lm_head.weight"][1][3, :2] = [1 + step / 2 + 2.0**-40, -(1 + step * 1.5 - 2.0**-40)]
    write_safetensors(tmp_path / "m" / "model.safetensors", tensors)
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions(outtype))
    assert verify(tmp_path / "o.gguf", tmp_path / "m").problems == []
    info = next(t for t in GgufFile(tmp_path / "o.gguf").tensors if t.name == "output.weight")
    row = np.fromfile(tmp_path / "o.gguf", np.uint8, 4, offset=info.start + 3 * 64 * 2)
    assert blocks.decode(info.type, row[None]).tolist() == [[1 + step, -(1 + step)]]


# The plan under test is no witness.


def planning(monkeypatch, change):
    """Lets every plan of this package be made by `change` of the right tensors."""
    from dca_export.export import plan

    right = plan.plan_tensors
    monkeypatch.setattr(plan, "plan_tensors", lambda *arguments: change(right(*arguments)))


def test_a_plan_that_forgets_a_tensor(tmp_path, monkeypatch):
    write_tiny_model(tmp_path / "m", attention_bias=True)
    planning(monkeypatch, lambda tensors: [t for t in tensors if t.name != "output.weight"])
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f32"))
    problems = verify(tmp_path / "o.gguf", tmp_path / "m").problems
    assert problems == ["the source's tensor lm_head.weight is in no tensor of the file"]


def test_a_plan_that_repeats_rows(tmp_path, monkeypatch):
    def repeat(tensors):
        index = next(i for i, t in enumerate(tensors) if t.name == "token_embd.weight")
        piece = tensors[index].pieces[0]
        pieces = (replace(piece, stop=160), replace(piece, stop=160))
        tensors[index] = replace(tensors[index], pieces=pieces)
        return tensors

    write_tiny_model(tmp_path / "m")
    planning(monkeypatch, repeat)
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f32"))
    problems = verify(tmp_path / "o.gguf", tmp_path / "m").problems
    assert problems == ["160 of 320 rows of the source's model.embed_tokens.weight are in no tensor"]


def test_a_plan_that_swaps_tensors(tmp_path, monkeypatch):
    def swap(tensors):
        k, v = (
            next(i for i, t in enumerate(tensors) if t.name == f"blk.0.ffn_{name}.weight")
            for name in ("gate", "up")
        )
        gate, up = tensors[k].pieces, tensors[v].pieces
        tensors[k], tensors[v] = replace(tensors[k], pieces=up), replace(tensors[v], pieces=gate)
        return tensors

    write_tiny_model(tmp_path / "m")
    planning(monkeypatch, swap)
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f32"))
    assert verify(tmp_path / "o.gguf", tmp_path / "m").problems == [
        "tensor blk.0.ffn_gate.weight holds model.layers.0.mlp.up_proj.weight, which belongs into "
        "blk.0.ffn_up.weight",
        "tensor blk.0.ffn_up.weight holds model.layers.0.mlp.gate_proj.weight, which belongs into "
        "blk.0.ffn_gate.weight",
    ]


# Entries.


def edited(path, out, change) -> None:
    """A copy of a GGUF file with other entries: `change(entries)` on {key: packed bytes}."""
    file = GgufFile(path)
    entries = {key: file.value_bytes(key) for key in file}
    change(entries)
    with open(out, "wb") as target:
        Copy(entries, tuple((file, tensor) for tensor in file.tensors), file.alignment).write(
            target, lambda done, total: None
        )


def u32(number: int) -> bytes:
    return packed_value(gguf.GGUFValueType.UINT32, number)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda e: e.update({"tokenizer.ggml.eos_token_id": u32(7)}),
            "tokenizer.ggml.eos_token_id is 7, the",
        ),
        (lambda e: e.pop("tokenizer.ggml.bos_token_id"), "tokenizer.ggml.bos_token_id is missing"),
        (lambda e: e.pop("tokenizer.huggingface.json"), "tokenizer.huggingface.json is missing"),
        (
            lambda e: e.update({"llama.rope.freq_base": u32(10000)}),
            "llama.rope.freq_base is stored as another",
        ),
        (lambda e: e.update({"llama.rope.scaling.type": packed_string_value("yarn")}), "no such entry"),
        (
            lambda e: e.update({"tokenizer.ggml.tokens": e["tokenizer.ggml.tokens"].replace(b"dog", b"cat")}),
            "tokenizer.ggml.tokens differs in 1 elements, first ",
        ),
        (
            lambda e: e.update({"tokenizer.chat_template": packed_string_value("{{ 1 }}")}),
            "tokenizer.chat_template is '{{ 1 }}', the source implies",
        ),
    ],
)
@pytest.mark.parametrize("of_gguf", [False, True])
def test_an_entry_that_is_not_the_sources(exported, tmp_path, change, problem, of_gguf):
    directory, path = exported("f16")
    edited(path, tmp_path / "edited.gguf", change)
    problems = verify(tmp_path / "edited.gguf", path if of_gguf else directory).problems
    assert len(problems) == 1 and problem in problems[0], problems


def packed_string_value(text: str) -> bytes:
    return packed_value(gguf.GGUFValueType.STRING, text)


def test_a_name_is_noted(exported, tmp_path):
    directory, path = exported("f16")
    directory.rename(tmp_path / "elsewhere")
    report = verify(path, tmp_path / "elsewhere")
    assert report.problems == []
    assert any(note.startswith("general.name is ") for note in report.notes)


def test_the_scheme_is_told_and_compared_with_the_expected_one(tmp_path):
    write_tiny_model(tmp_path / "m")
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f16", SchemeOptions(True, 64, 40, 24)))
    report = verify(tmp_path / "o.gguf", tmp_path / "m")
    assert (report.scheme, report.problems) == (Scheme(40, 24, 64), [])
    same = SchemeOptions(True, 64, 40)
    assert verify(tmp_path / "o.gguf", tmp_path / "m", expected=same).problems == []
    (problem,) = verify(tmp_path / "o.gguf", tmp_path / "m", expected=SchemeOptions(True, 64)).problems
    assert "the scheme is chunk_size 40, local_window 24" in problem and "expected chunk_size 48" in problem
    (problem,) = verify(tmp_path / "o.gguf", tmp_path / "m", expected=SchemeOptions(False)).problems
    assert problem.endswith("expected none (plain attention)")


def test_string_is_told_kept_and_compared_with_the_expected_one(tmp_path):
    write_tiny_model(tmp_path / "m")
    wanted = SchemeOptions(string=StringBorder(40, 8))
    export_model(tmp_path / "m", tmp_path / "o.gguf", ExportOptions("f16", wanted))
    report = verify(tmp_path / "o.gguf", tmp_path / "m")
    assert (report.scheme, report.border, report.problems) == (None, StringBorder(40, 8), [])
    assert verify(tmp_path / "o.gguf", tmp_path / "m", expected=wanted).problems == []
    (problem,) = verify(tmp_path / "o.gguf", tmp_path / "m", expected=SchemeOptions(dca=False)).problems
    assert problem == "the scheme is STRING: border 40, local_window 8, expected none (plain attention)"
    # A copy keeps it where nothing is asked for, and loses it to a scheme or to --no-dca.
    for options, scheme, border in (
        (SchemeOptions(), None, StringBorder(40, 8)),
        (SchemeOptions(dca=False), None, None),
        (SchemeOptions(chunk_size=48), Scheme(48, 16, 64), None),
    ):
        copy = tmp_path / f"{scheme}{border}.gguf"
        export_model(tmp_path / "o.gguf", copy, ExportOptions(scheme=options))
        report = verify(copy, tmp_path / "o.gguf")
        assert (report.scheme, report.border, report.problems) == (scheme, border, [])
