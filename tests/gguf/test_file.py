"""GGUF headers: read as gguf's own writer wrote them, refused where they cannot be true, copied whole."""

import io
import struct

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from dca_export.errors import InputError
from dca_export.gguf.copy import Copy
from dca_export.gguf.file import GgufFile, is_gguf, open_parts, packed_value


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def u32_entry(key: bytes, value: int) -> bytes:
    return string(key) + struct.pack("<II", GGUFValueType.UINT32, value)


def tensor_info(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        string(name)
        + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", n) for n in shape)
        + struct.pack("<IQ", kind, offset)
    )


def gguf_bytes(entries: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    header += b"".join(entries) + b"".join(tensors)
    return header + b"\0" * (-len(header) % 32) + data


@pytest.fixture
def written(tmp_path):
    """A function from bytes to the GgufFile that a file of them is."""

    def write(data: bytes) -> GgufFile:
        path = tmp_path / "f.gguf"
        path.write_bytes(data)
        return GgufFile(path)

    return write


@pytest.fixture
def full(tmp_path):
    """A file with every kind of value and several tensors, made by gguf's writer."""
    path = tmp_path / "full.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -5)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -7)
    writer.add_uint64("a.u64", 2**63)
    writer.add_int64("a.i64", -(2**62))
    writer.add_float32("a.f32", 1.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "Việt 你好")
    writer.add_array("a.strings", ["", "x", "é"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(5, dtype=np.float16))
    blocks = gguf.quants.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("three", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_gguf_writes(full):
    file, oracle = GgufFile(full), gguf.GGUFReader(full)
    expected = {key: f.contents() for key, f in oracle.fields.items() if not key.startswith("GGUF.")}
    assert dict(file) == expected
    for tensor, theirs in zip(file.tensors, oracle.tensors, strict=True):
        assert (tensor.name, tensor.type, tensor.start) == (
            theirs.name,
            theirs.tensor_type,
            theirs.data_offset,
        )
        assert tensor.shape == tuple(int(n) for n in reversed(theirs.shape))
        assert tensor.nbytes == theirs.n_bytes


def test_real_file(smollm2_gguf):
    file = GgufFile(smollm2_gguf)
    assert file.architecture == "llama"
    assert len(file["tokenizer.ggml.tokens"]) == 49152
    assert sum(tensor.n_values for tensor in file.tensors) == 134_515_008


def test_copy_keeps_values_and_tensors(full, tmp_path):
    file = GgufFile(full)
    entries = {key: file.value_bytes(key) for key in file}
    entries["a.new"] = packed_value(GGUFValueType.UINT32, 9)
    seen = []
    with open(tmp_path / "copy.gguf", "wb") as out:
        copy = Copy(entries, tuple((file, tensor) for tensor in file.tensors), file.alignment)
        copy.write(out, lambda done, total: seen.append((done, total)))
    before, after = gguf.GGUFReader(full), gguf.GGUFReader(tmp_path / "copy.gguf")
    assert dict(GgufFile(tmp_path / "copy.gguf")) == dict(file) | {"a.new": 9}
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, old.tensor_type, old.shape.tolist()) == (
            new.name,
            new.tensor_type,
            new.shape.tolist(),
        )
        assert old.data.tobytes() == new.data.tobytes()
    assert seen[-1] == (copy.data_bytes, copy.data_bytes)


def test_copy_keeps_an_empty_array_and_bytes_that_are_no_utf8(written):
    empty = string(b"empty") + struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.STRING, 0)
    odd = string(b"odd") + struct.pack("<I", GGUFValueType.STRING) + string(b"\xff\xfe")
    file = written(gguf_bytes([empty, odd], []))
    out = io.BytesIO()
    Copy({key: file.value_bytes(key) for key in file}, (), 32).write(out, lambda *_: None)
    assert out.getvalue() == gguf_bytes([empty, odd], [])


def test_alignment_of_the_file_is_used(written):
    aligned = [u32_entry(b"general.alignment", 64)]
    info = tensor_info(b"t", (2,))
    header = gguf_bytes(aligned, [info])
    file = written(header + b"\0" * (-len(header) % 64) + struct.pack("<2f", 1, 2))
    assert file.tensors[0].start % 64 == 0


ONE = tensor_info(b"t", (4,))

MALFORMED = {
    "empty": (b"", "empty"),
    "not a GGUF": (b"PK\3\4" + b"\0" * 40, "not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version": (gguf_bytes([], [], version=4), "version 4"),
    "cut in the counts": (b"GGUF" + struct.pack("<IQ", 3, 0), "truncated"),
    "tensor count": (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "truncated"),
    "key count": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "truncated"),
    "key length": (gguf_bytes([struct.pack("<Q", 2**50) + b"\0" * 50], []), "states"),
    "empty key": (gguf_bytes([u32_entry(b"", 1)], []), "states 0 bytes"),
    "value type": (gguf_bytes([string(b"k") + struct.pack("<IQ", 99, 0)], []), "unknown value type 99"),
    "string length": (
        gguf_bytes([string(b"k") + struct.pack("<IQ", GGUFValueType.STRING, 2**62)], []),
        "k at byte",
    ),
    "array length": (
        gguf_bytes([string(b"k") + struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.UINT8, 2**62)], []),
        "truncated",
    ),
    "string array length": (
        gguf_bytes(
            [string(b"k") + struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.STRING, 2**61)], []
        ),
        "more than the file can hold",
    ),
    "array of arrays": (
        gguf_bytes([string(b"k") + struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.ARRAY, 1)], []),
        "array of arrays",
    ),
    "key twice": (gguf_bytes([u32_entry(b"k", 1)] * 2, []), "k occurs twice"),
    "alignment": (gguf_bytes([u32_entry(b"general.alignment", 24)], []), "must be a power of two"),
    "no dimensions": (gguf_bytes([], [tensor_info(b"t", ())]), "has 0 dimensions"),
    "dimensions": (gguf_bytes([], [tensor_info(b"t", (1,) * 5)]), "has 5 dimensions"),
    "zero size": (gguf_bytes([], [tensor_info(b"t", (0,))]), "must be a positive multiple"),
    "huge size": (gguf_bytes([], [tensor_info(b"t", (2**40, 2**40))]), "truncated"),
    "tensor type": (gguf_bytes([], [tensor_info(b"t", (4,), kind=77)]), "unknown type 77"),
    "half a block": (gguf_bytes([], [tensor_info(b"t", (33,), kind=8)], b"\0" * 99), "multiple of 32"),
    "data cut": (gguf_bytes([], [ONE], b"\0" * 15), "truncated"),
    "offset": (gguf_bytes([], [tensor_info(b"t", (4,), offset=2**63)], b"\0" * 16), "truncated"),
    "odd offset": (gguf_bytes([], [tensor_info(b"t", (4,), offset=4)], b"\0" * 64), "damaged"),
    "overlap": (gguf_bytes([], [ONE, tensor_info(b"u", (4,))], b"\0" * 16), "t and u overlap at byte"),
    "tensor twice": (gguf_bytes([], [ONE, ONE], b"\0" * 16), "t occurs twice"),
}


@pytest.mark.parametrize("case", sorted(MALFORMED))
def test_malformed_file_is_refused_with_its_name(tmp_path, case):
    data, message = MALFORMED[case]
    path = tmp_path / "f.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        GgufFile(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_or_read_but_nothing_else(tmp_path_factory, data):
    entries = [u32_entry(b"general.alignment", 32), u32_entry(b"k", 5)]
    good = bytearray(gguf_bytes(entries, [tensor_info(b"t", (8, 4), kind=1)], b"\0" * 64))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 65))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "f.gguf"
    path.write_bytes(good[: data.draw(st.integers(1, len(good)))])
    try:
        file = GgufFile(path)
    except InputError:
        return
    dict(file)
    assert all(tensor.start + tensor.nbytes <= file.size for tensor in file.tensors)


def test_a_model_names_its_architecture(written):
    with pytest.raises(InputError, match="general.architecture is missing"):
        _ = written(gguf_bytes([], [])).architecture


def test_is_gguf(tmp_path, full):
    assert is_gguf(full)
    (tmp_path / "named").write_bytes(full.read_bytes())
    assert is_gguf(tmp_path / "named")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "absent.gguf")


def part(number: int, count: int, tensors: list[bytes], total: int = 2) -> bytes:
    def u16(key: bytes, value: int) -> bytes:
        return string(key) + struct.pack("<IH", GGUFValueType.UINT16, value)

    total_entry = string(b"split.tensors.count") + struct.pack("<Ii", GGUFValueType.INT32, total)
    entries = [u16(b"split.no", number), u16(b"split.count", count), total_entry]
    return gguf_bytes(entries, tensors, b"\0" * 16)


@pytest.fixture
def parts(tmp_path):
    """A model in two parts of one tensor each; the path of the first."""
    for number, name in enumerate((b"a", b"b")):
        path = tmp_path / f"m-{number + 1:05d}-of-00002.gguf"
        path.write_bytes(part(number, 2, [tensor_info(name, (4,))]))
    return tmp_path / "m-00001-of-00002.gguf"


def test_parts(parts):
    assert [[tensor.name for tensor in file.tensors] for file in open_parts(parts)] == [["a"], ["b"]]


def test_a_file_in_one_part(full):
    assert len(open_parts(full)) == 1


def second(parts):
    return parts.with_name("m-00002-of-00002.gguf")


def test_a_missing_part(parts):
    second(parts).unlink()
    with pytest.raises(
        InputError, match="m-00002-of-00002.gguf: this part of m-00001-of-00002.gguf is missing"
    ):
        open_parts(parts)


def test_a_part_that_is_not_the_first(parts):
    with pytest.raises(InputError, match="its name must end in -00001-of-00002.gguf"):
        open_parts(second(parts))


def test_a_part_under_another_name(parts):
    parts.write_bytes(second(parts).read_bytes())
    with pytest.raises(InputError, match="is not the first of its 2 parts"):
        open_parts(parts)


def test_a_part_of_something_else(parts):
    second(parts).write_bytes(part(0, 3, [tensor_info(b"b", (4,))]))
    with pytest.raises(InputError, match="is not part 2 of 2, as its name says"):
        open_parts(parts)


def test_parts_with_the_same_tensor(parts):
    second(parts).write_bytes(part(1, 2, [tensor_info(b"a", (4,))]))
    with pytest.raises(InputError, match="its parts hold a tensor twice"):
        open_parts(parts)


def test_parts_with_too_few_tensors(parts):
    parts.write_bytes(part(0, 2, [tensor_info(b"a", (4,))], total=3))
    with pytest.raises(InputError, match="its parts hold 2 tensors, it states 3"):
        open_parts(parts)
