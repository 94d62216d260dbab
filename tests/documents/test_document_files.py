"""Documents from files and folders, by what they contain."""

import codecs
import os
import sys

import pytest

from dca_export.documents.read import Text, texts_of
from dca_export.errors import InputError


def test_a_text_has_the_name_of_its_file(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# One\r\ntwo\rthree")
    assert texts_of(str(tmp_path / "a.md")) == [Text("a.md", "# One\ntwo\nthree")]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf16_with_a_mark_is_text(tmp_path, mark):
    order = "le" if mark == codecs.BOM_UTF16_LE else "be"
    (tmp_path / "a.txt").write_bytes(mark + "café".encode(f"utf-16-{order}"))
    assert texts_of(str(tmp_path / "a.txt"))[0].text == "café"


def test_what_is_no_text_is_a_line(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match=r"a.bin: not UTF-8 text \(byte 2\)"):
        texts_of(str(tmp_path / "a.bin"))


def test_html_is_known_by_its_name_or_beginning(tmp_path):
    pytest.importorskip("markdownify")
    (tmp_path / "a.html").write_text("<p>one</p>")
    (tmp_path / "page").write_text("\n<!-- saved --><!doctype HTML><html><p>two</p></html>")
    (tmp_path / "a.md").write_text("see `<html>`")
    assert texts_of(str(tmp_path / "a.html"))[0].text == "one"
    assert texts_of(str(tmp_path / "page"))[0].text == "two"
    assert texts_of(str(tmp_path / "a.md"))[0].text == "see `<html>`"


@pytest.mark.parametrize(("name", "data"), [("a.html", b"<p>x"), ("a.pdf", b"%PDF-1.4")])
def test_a_missing_package_is_named_with_its_cure(tmp_path, monkeypatch, name, data):
    for package in ("pypdf", "bs4", "markdownify"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"pip install 'dca-export\[documents\]'"):
        texts_of(str(tmp_path / name))


def test_a_folder_is_its_texts_by_name(tmp_path):
    tree = tmp_path / "code"
    for name, data in {
        "b.py": b"b = 1\n",
        "long.py": "é".encode() * 5000 + b"!",
        "a/z.py": b"z = 1\n",
        "a/page.html": b"<p>source</p>",
        ".git/config": b"hidden",
        ".env": b"hidden",
        "picture.png": b"\x89PNG\x00\x01",
        "nul.txt": b"a\0b",
        "latin.txt": b"caf\xe9",
        "empty.py": b"\n",
    }.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tree / "link.py").symlink_to(tree / "b.py")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    with open(tree / "model.gguf", "wb") as large:
        large.truncate(10**12)  # a hole, which nobody could read into memory
    assert texts_of(str(tree)) == [
        Text("code/a/page.html", "<p>source</p>"),
        Text("code/a/z.py", "z = 1\n"),
        Text("code/b.py", "b = 1\n"),
        Text("code/long.py", "é" * 5000 + "!"),
    ]


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_a_line(tmp_path, data):
    (tmp_path / "blank.txt").write_bytes(data)
    with pytest.raises(InputError, match="blank.txt: holds no text"):
        texts_of(str(tmp_path / "blank.txt"))


def test_a_folder_without_text_is_a_line(tmp_path):
    with pytest.raises(InputError, match="no file in this folder holds text"):
        texts_of(str(tmp_path))


def test_a_document_without_end_is_refused(tmp_path):
    (tmp_path / "zeros.txt").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"zeros.txt: has more than 268,435,456 bytes"):
        texts_of(str(tmp_path / "zeros.txt"))


def test_a_text_without_end_in_a_folder_is_refused(tmp_path):
    with open(tmp_path / "text.txt", "wb") as file:
        file.write(b"a" * 10_000)
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"text.txt: has more than"):
        texts_of(str(tmp_path))


def test_folders_may_be_deep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    depth = 1200
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    with open("a.txt", "w") as file:
        file.write("deep")
    os.chdir(tmp_path)
    try:
        assert [each.text for each in texts_of(str(tmp_path))] == ["deep"]
    finally:  # pytest cannot remove so deep a folder
        for _ in range(depth):
            os.chdir("d")
        os.remove("a.txt")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
