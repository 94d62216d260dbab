"""Outputs that would do harm, or could not be written, are refused before any work."""

import pytest

from dca_export.cli._common import _fitting, check_outputs
from dca_export.errors import InputError


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"--json": "none/x.json"}, "there is no folder"),
        ({"--json": "."}, "is a folder"),
        ({"--json": "x", "--results": "./x"}, "--results x: would overwrite what --json names"),
        ({"--json": "text"}, "would overwrite what --text names"),
        ({"--json": "link"}, "would overwrite what --text names"),
        ({"--json": "other.gguf"}, "is a model"),
        ({"--json": "checkpoint/config.json"}, "would overwrite what --reference names"),
    ],
)
def test_refused(tmp_path, monkeypatch, outputs, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a book")
    (tmp_path / "link").hardlink_to(tmp_path / "text")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=says):
        check_outputs(outputs, {"--text": "text", "--reference": "checkpoint"})


def test_others_are_not(tmp_path):
    check_outputs({"--json": "-", "--plot": None, "--results": tmp_path / "r"}, {"--text": tmp_path / "t"})


def test_columns_that_do_not_fit_come_in_a_second_table():
    columns = ["name", *(f"column {index}" for index in range(9))]
    groups = _fitting(columns, [["a", *["1.23e-05"] * 9]], 80)
    assert [index for group in groups for index in group if index] == list(range(1, 10))
    assert len(groups) == 2 and all(group[0] == 0 for group in groups)
    assert _fitting(columns, [], 200) == [list(range(10))]
