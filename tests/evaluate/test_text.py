"""The text that experiments read."""

import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import text


def test_there_is_always_a_text():
    default = text.load_text(None)
    assert len(default) > 400_000 and "lambda" in default


def test_a_users_text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Đây là sách.", encoding="utf-8")
    assert text.load_text(path) == "Đây là sách."
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="book.txt"):
        text.load_text(path)


def test_ids_are_the_first_of_the_text(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        source = "the in a <|im_end|> the" * 20
        ids = text.text_ids(model, source, 50)
        assert ids.tolist() == model.tokenize(source, parse_special=False)[:50]
        assert 2 not in ids  # <|im_end|> stays text
        with pytest.raises(InputError, match="5000"):
            text.text_ids(model, source, 5000)


def test_description_tells_texts_apart(tmp_path):
    one, other = text.describe_text(None, "a"), text.describe_text(tmp_path / "b.txt", "b")
    assert one["text"] == "pydoc_data.topics" and other["text"] == "b.txt"
    assert one["text_sha256"] != other["text_sha256"]
