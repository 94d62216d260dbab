"""The text that experiments read."""

import hashlib
import os
import threading

import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate.text import Text, printable


def test_there_is_always_a_text():
    default, more = Text(None).start(10**7)
    assert len(default) > 400_000 and "lambda" in default and not more


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
def test_a_users_text(tmp_path, lead):
    path = tmp_path / "book.txt"
    path.write_bytes(lead + "Đây là\r\nsách.\rHết.\n".encode())
    assert Text(path).start(100) == ("Đây là\nsách.\nHết.\n", False)
    assert Text(path).start(3) == ("Đây", True)


def test_what_is_not_utf_8_is_said_with_its_place(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match=r"book.txt: not UTF-8 text \(byte 3\)"):
        Text(path).start(100)


def test_a_missing_file_is_said_before_it_is_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        Text(tmp_path / "none.txt")


def test_ids_are_the_first_of_the_text(tiny_gguf, tmp_path):
    source = "the in a <|im_end|> the" * 500
    (tmp_path / "t").write_text(source)
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        for length in (1, 50, 700):
            ids = Text(tmp_path / "t").ids(model, length)
            assert ids.tolist() == model.tokenize(source, parse_special=False)[:length]
            assert 2 not in ids  # <|im_end|> stays text
        with pytest.raises(InputError, match="50000"):
            Text(tmp_path / "t").ids(model, 50000)


def test_no_more_is_read_than_is_needed(tiny_gguf, tmp_path):
    """A sparse file of 40 GB behind the beginning: reading or hashing all of it would not end."""
    path = tmp_path / "large"
    path.write_text("the quick brown fox " * 5000)
    with path.open("r+b") as file:
        file.truncate(40 << 30)
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        assert len(Text(path).ids(model, 1000)) == 1000
    assert Text(path).description()["text_bytes"] == 40 << 30


def test_description_tells_texts_apart(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    one, other = Text(None).description(), Text(tmp_path / "b.txt").description()
    assert one["text"] == "pydoc_data.topics" and other["text"] == "b.txt"
    assert other["text_sha256_of_first_mib"] == hashlib.sha256(b"b").hexdigest()


def test_description_tells_texts_apart_that_begin_alike(tmp_path):
    """Of a long text what lies beyond its first MiB is read as well."""
    found = []
    for end in ("a", "b"):
        (tmp_path / "t").write_text("x" * (3 << 20) + end)
        found.append(Text(tmp_path / "t").description())
    one, other = found
    assert one != other and one["text_bytes"] == other["text_bytes"]


def test_a_pipe_is_read_once_and_whole(tiny_gguf, tmp_path):
    """As a shell's <(zcat book.gz) is: what is read of it is gone."""
    source = "the quick brown fox " * 20_000
    (tmp_path / "t").write_text(source)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(source))
    writer.start()
    piped, kept = Text(tmp_path / "pipe"), Text(tmp_path / "t")
    writer.join()
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        assert piped.ids(model, 3).tolist() == kept.ids(model, 3).tolist()
        assert piped.ids(model, 9000).tolist() == kept.ids(model, 9000).tolist()
    assert piped.description() | {"text": "t"} == kept.description()


def test_more_than_there_is_room_for_may_be_asked_for(tmp_path):
    (tmp_path / "t").write_text("abc")
    assert Text(tmp_path / "t").start(2**40) == ("abc", False)


def test_names_that_are_not_utf_8_can_be_written_down():
    name = b"b\xfcch.txt".decode("utf-8", "surrogateescape")
    assert printable(name) == r"b\xfcch.txt"
    assert printable("bücher") == "bücher"
