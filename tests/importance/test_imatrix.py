"""Importance: what is counted is what flows in, the file is llama.cpp's, and errors count by it."""

import gguf
import numpy as np
import pytest
from tiny_hf import write_tiny_model, write_tokenizer

import dca_runtime as dca
from dca_export.cli import export as command
from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.verify import verify
from dca_export.export.write import export_model
from dca_export.gguf.file import GgufFile
from dca_export.importance.file import Importance, Sums, read_importance, write_importance
from dca_runtime import blocks

TEXT = "the quick brown fox jumps over the lazy dog 123 times, doesn't it? " * 30
Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL = 2, 3, 6, 7, 20
K_QUANTS = (10, 11, 12, 13, 14)
IQ4_XS = 23


@pytest.fixture
def model(tmp_path):
    write_tiny_model(tmp_path / "hf", "F16")
    path = tmp_path / "model.gguf"
    export_model(tmp_path / "hf", path, ExportOptions("f32", SchemeOptions(dca=False)))
    return path


def collected(path, ids, **options) -> dict:
    with dca.Model(path, device="cpu") as loaded, loaded.session(context=128, **options) as session:
        session.collect_squares()
        session.eval(ids, all_logits=True)
        return session.squares()


@pytest.mark.parametrize("length", [3, 40, 77])
def test_sums_are_those_of_what_pytorch_multiplies(model, length):
    torch = pytest.importorskip("torch")
    from dca_export.reference.load import load_reference

    ids = list(np.random.default_rng(1).integers(0, 320, length))
    reference, wanted = load_reference(model), {}

    def hook(name):
        def count(module, inputs):
            wanted[name] = inputs[0].double().reshape(-1, inputs[0].shape[-1]).square().sum(0).numpy()

        return count

    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        reference(torch.tensor([ids]))
    found = collected(model, ids, cache_type="f32")
    names = {"q": "self_attn.q_proj", "v": "self_attn.v_proj", "output": "self_attn.o_proj"}
    pairs = {f"blk.{i}.attn_{a}.weight": f"model.layers.{i}.{b}" for i in (0, 1) for a, b in names.items()}
    pairs |= {
        f"blk.{i}.ffn_{a}.weight": f"model.layers.{i}.mlp.{a}_proj" for i in (0, 1) for a in ("up", "down")
    }
    pairs["output.weight"] = "lm_head"
    for tensor, module in pairs.items():
        squares, counts = found[tensor]
        assert counts.tolist() == [length]
        np.testing.assert_allclose(squares[0], wanted[module], rtol=2e-3)


def test_every_expert_counts_what_it_was_given(tmp_path):
    torch = pytest.importorskip("torch")
    from hf_families import make

    make("mixtral", torch.float32).save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    path = tmp_path / "m.gguf"
    export_model(tmp_path / "hf", path, ExportOptions("f32", SchemeOptions(dca=False)))
    found = collected(path, list(range(3, 43)), cache_type="f32")
    routed, gate = found["blk.0.ffn_gate_inp.weight"], found["blk.0.ffn_gate_exps.weight"]
    assert gate[0].shape[0] == 4 and gate[1].sum() == 2 * 40
    np.testing.assert_allclose(gate[0].sum(axis=0), 2 * routed[0][0], rtol=1e-5)


def test_nothing_is_counted_unless_asked(model):
    with dca.Model(model, device="cpu") as loaded, loaded.session() as session:
        session.eval([1, 2, 3])
        assert session.squares() == {}


def test_the_command_writes_llama_cpps_file(model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    output = tmp_path / "i.gguf"
    assert (
        command.main(["imatrix", str(model), str(tmp_path / "text.txt"), str(output), "--window", "64"]) == 0
    )
    reader = gguf.GGUFReader(output)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["text.txt"]
    assert reader.fields["imatrix.chunk_size"].contents() == 64
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sums, counts = tensors["blk.0.ffn_down.weight.in_sum2"], tensors["blk.0.ffn_down.weight.counts"]
    assert list(sums.shape) == [96, 1] and list(counts.shape) == [1, 1]
    assert (sums.data > 0).all() and counts.data.item() > 64


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, *K_QUANTS])
def test_weighted_errors_are_smaller(kind):
    random = np.random.default_rng(0)
    values = random.standard_normal((64, 512)).astype(np.float32)
    weights = (random.standard_normal(512) ** 4).astype(np.float32) + 1e-3

    def error(encoded) -> float:
        return float((np.square(blocks.decode(kind, encoded) - values) * weights).sum())

    plain, weighted = error(blocks.encode(kind, values)), error(blocks.encode(kind, values, weights=weights))
    assert weighted < (0.97 if kind in K_QUANTS[3:] else 0.9) * plain


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, *K_QUANTS])
@pytest.mark.parametrize("values", [np.zeros((2, 256)), np.full((2, 256), -3.0), np.eye(2, 256) * 1e-30])
def test_weights_of_blocks_without_a_spread(kind, values):
    values = values.astype(np.float32)
    for weights in (np.ones(256), np.zeros(256), np.eye(1, 256)[0]):
        found = blocks.decode(kind, blocks.encode(kind, values, weights=weights.astype(np.float32)))
        assert np.isfinite(found).all() and np.abs(found).max() <= 1.2 * np.abs(values).max() + 1e-30


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_none(bad):
    weights = np.ones(32, np.float32)
    weights[7] = bad
    with pytest.raises(dca.DcaError, match="weight 7 is"):
        blocks.encode(Q4_0, np.ones((1, 32), np.float32), weights=weights)


def importance(model, scale: float = 1.0) -> Importance:
    random = np.random.default_rng(4)
    sums = {
        tensor.name: Sums(random.uniform(0, 9, (1, tensor.shape[-1])) ** 4 * scale, np.array([7.0]))
        for tensor in GgufFile(model).tensors
        if len(tensor.shape) == 2 and tensor.name.startswith("blk")
    }
    return Importance(sums, ("x.txt",), 3, 512)


def weighted_error(path, model, sums: Importance) -> float:
    total = 0.0
    stored = {tensor.name: tensor for tensor in GgufFile(model).tensors}
    for tensor in GgufFile(path).tensors:
        if tensor.name in sums.sums:
            found, wanted = (
                blocks.decode(
                    t.type, np.fromfile(p, np.uint8, t.nbytes, offset=t.start).reshape(t.shape[0], -1)
                )
                for p, t in ((path, tensor), (model, stored[tensor.name]))
            )
            total += float((np.square(found - wanted) * sums.sums[tensor.name].squares).sum())
    return total


@pytest.mark.parametrize("source", ["hf", "model.gguf"])
def test_an_export_heeds_it_and_is_verified(model, tmp_path, source):
    sums = importance(model)
    write_importance(tmp_path / "i.gguf", sums)
    plain, weighted = tmp_path / "plain.gguf", tmp_path / "weighted.gguf"
    scheme = SchemeOptions(dca=False)
    export_model(tmp_path / source, plain, ExportOptions("q4_0", scheme))
    options = ExportOptions("q4_0", scheme, imatrix=tmp_path / "i.gguf")
    exported = export_model(tmp_path / source, weighted, options)
    assert weighted_error(weighted, model, sums) < 0.9 * weighted_error(plain, model, sums)
    assert any("14 tensors" in note for note in exported.summary.scheme.notes)
    assert GgufFile(weighted)["quantize.imatrix.chunks_count"] == 3
    assert verify(weighted, tmp_path / source).problems == []


def test_a_file_reads_as_it_was_written(model, tmp_path):
    sums = importance(model)
    write_importance(tmp_path / "i.gguf", sums)
    found = read_importance(tmp_path / "i.gguf")
    assert (found.datasets, found.chunks, found.chunk_size) == (("x.txt",), 3, 512)
    for name, each in sums.sums.items():
        np.testing.assert_array_equal(found.sums[name].squares, each.squares.astype(np.float32))


def test_of_another_model(model, tmp_path):
    sums = {"blk.0.attn_q.weight": Sums(np.ones((1, 32)), np.ones(1))}
    write_importance(tmp_path / "i.gguf", Importance(sums))
    with pytest.raises(InputError, match="1 x 32 sums, the tensor 1 x 64: an imatrix of another model"):
        export_model(tmp_path / "hf", tmp_path / "o.gguf", ExportOptions("q4_0", imatrix=tmp_path / "i.gguf"))


def test_no_imatrix(model, tmp_path):
    with pytest.raises(InputError, match="expected imatrix"):
        read_importance(model)
    (tmp_path / "old.dat").write_bytes(b"\1\0\0\0old")
    with pytest.raises(InputError, match="not a GGUF file; an imatrix of the old form"):
        read_importance(tmp_path / "old.dat")


def test_requantised_tensors_are_those_of_an_export(tmp_path):
    write_tiny_model(tmp_path / "hf", "F16")
    export_model(tmp_path / "hf", tmp_path / "f16.gguf", ExportOptions("f16"))
    export_model(tmp_path / "hf", tmp_path / "direct.gguf", ExportOptions("q5_1"))
    export_model(tmp_path / "f16.gguf", tmp_path / "again.gguf", ExportOptions("q5_1"))
    direct, again = GgufFile(tmp_path / "direct.gguf"), GgufFile(tmp_path / "again.gguf")
    assert direct["general.file_type"] == again["general.file_type"]
    read = {path: (tmp_path / path).read_bytes() for path in ("direct.gguf", "again.gguf")}
    for one, other in zip(direct.tensors, again.tensors, strict=True):
        assert (one.name, one.type) == (other.name, other.type)
        wanted = read["direct.gguf"][one.start : one.start + one.nbytes]
        assert read["again.gguf"][other.start : other.start + other.nbytes] == wanted


def test_below_8_bits_only_if_asked(tmp_path, capsys):
    write_tiny_model(tmp_path / "hf")
    export_model(tmp_path / "hf", tmp_path / "q4.gguf", ExportOptions("q4_1"))
    arguments = [str(tmp_path / "q4.gguf"), str(tmp_path / "out.gguf"), "--outtype", "q4_0"]
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert "is Q4_1, below 8 bits" in error and "--requantize" in error and error.count("\n") == 1
    assert command.main([*arguments, "--requantize"]) == 0
    assert verify(tmp_path / "out.gguf", tmp_path / "q4.gguf").problems == []


def test_from_8_bits_without_asking(tmp_path):
    write_tiny_model(tmp_path / "hf")
    export_model(tmp_path / "hf", tmp_path / "q8.gguf", ExportOptions("q8_0"))
    exported = export_model(tmp_path / "q8.gguf", tmp_path / "out.gguf", ExportOptions("q4_0"))
    assert any("quantised anew" in note for note in exported.summary.scheme.notes)
