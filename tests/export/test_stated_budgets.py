"""Budgets of columns and diagonals: what a checkpoint states becomes keys that the runtime reads."""

import json

import pytest
from tiny_hf import write_tiny_model
from written import read

import dca_runtime
from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.export.plan import ExportOptions
from dca_export.export.stated_budgets import stated_budgets
from dca_export.export.write import export_model
from dca_export.gguf.budget_keys import read_budgets

SECTION = "dual_chunk_attention_config"
CHUNKS = {"chunk_size": 40, "local_size": 8, "original_max_position_embeddings": 64}


def head(columns, diagonals):
    return ["vertical_and_slash", columns, diagonals, 0.5]


def found(directory, values, layers=2, heads=2, **section):
    """What is read of a file that holds `values`."""
    if values is not None:
        (directory / "sparse_attention_config.json").write_text(json.dumps(values))
    return stated_budgets(Config({SECTION: CHUNKS | section}, "config.json"), directory, layers, heads)


VALUES = [{"0": head(1, 2), "1": head(3, 4)}, {"1": head(7, 8), "0": head(5, 6)}]


def test_layers_and_heads_are_read_by_their_numbers(tmp_path):
    budgets, (note,) = found(tmp_path, VALUES)
    assert budgets.columns == [[1, 3], [5, 7]] and budgets.diagonals == [[2, 4], [6, 8]]
    assert (budgets.threshold, budgets.last_queries) == (32768, 64)
    assert note.startswith("budgets of 2 × 2 heads of queries for --prefill stated")


@pytest.mark.parametrize("values", [{"0": VALUES[0], "1": VALUES[1]}, [[head(1, 2), head(3, 4)], VALUES[1]]])
def test_lists_and_numbered_objects_mean_the_same(tmp_path, values):
    assert found(tmp_path, values)[0] == found(tmp_path, VALUES)[0]


def test_what_config_json_says_counts(tmp_path):
    settings = {"sparse_attention_threshold": 500, "sparse_attention_last_q": 32}
    budgets, _ = found(tmp_path, VALUES, **settings)
    assert (budgets.threshold, budgets.last_queries) == (500, 32)
    inline, _ = found(tmp_path, None, sparse_attention_config=[VALUES[1], VALUES[0]])
    assert inline.columns == [[5, 7], [1, 3]]


def test_thirty_columns_are_read_as_130(tmp_path):
    budgets, _ = found(tmp_path, [{"0": head(30, 2), "1": head(31, 2)}], layers=1)
    assert budgets.columns == [[130, 31]]


def test_budgets_that_are_turned_off_are_not_written(tmp_path):
    budgets, (note,) = found(tmp_path, VALUES, sparse_attention_enabled=False)
    assert budgets is None and "turns sparse attention off" in note


def test_nothing_stated(tmp_path):
    assert found(tmp_path, None) == (None, [])
    budgets, (note,) = found(tmp_path, None, sparse_attention_enabled=True)
    assert budgets is None and "there is no sparse_attention_config.json" in note


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES[:1], "expected 2 layers, as config.json has, found 1"),
        (7, "expected 2 layers, as config.json has, found int"),
        ([VALUES[0], {"0": head(1, 2)}], r"layer 1: expected the heads 0 to 1, found \[\"0\"\]"),
        ([VALUES[0], [head(1, 2), ["stream_llm", 1, 2, 0.1]]], "layer 1, head 1: expected .*, found"),
        ([VALUES[0], [head(1, 2), head(-1, 2)]], "layer 1, head 1: expected .* integers up to 1073741824"),
        ([VALUES[0], [head(1, 0), head(1, 2)]], "layer 1, head 0: expected .* integers"),
        ([VALUES[0], [head(True, 3), head(1, 2)]], "layer 1, head 0: expected .* integers"),
        ([VALUES[0], [head(1.5, 3), head(1, 2)]], "layer 1, head 0: expected .* integers"),
        ([VALUES[0], [head(10**30, 3), head(1, 2)]], "layer 1, head 0: expected .* integers"),
        ([VALUES[0], [None, head(1, 2)]], "layer 1, head 0: expected"),
    ],
)
def test_malformed_budgets(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        found(tmp_path, values)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "sparse_attention_config.json").write_text("[")
    with pytest.raises(InputError, match="sparse_attention_config.json: not valid JSON"):
        found(tmp_path, None)


def test_last_queries_beyond_what_runs(tmp_path):
    with pytest.raises(InputError, match="sparse_attention_last_q is 2000, must be at most 1024"):
        found(tmp_path, VALUES, sparse_attention_last_q=2000)


def test_an_export_carries_them_and_the_runtime_runs_them(tmp_path):
    section = {SECTION: CHUNKS | {"sparse_attention_threshold": 64}}
    write_tiny_model(tmp_path / "m", "F32", **section)
    heads = json.loads((tmp_path / "m" / "config.json").read_text())["num_attention_heads"]
    layers = json.loads((tmp_path / "m" / "config.json").read_text())["num_hidden_layers"]
    values = [[head(40 + layer, 101 + number) for number in range(heads)] for layer in range(layers)]
    (tmp_path / "m" / "sparse_attention_config.json").write_text(json.dumps(values))
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32"))
    assert any("--prefill stated" in note for note in exported.summary.scheme.notes)
    budgets = read_budgets(read(tmp_path / "out.gguf")[0], "out.gguf")
    assert budgets.columns == [[40 + layer] * heads for layer in range(layers)]
    assert budgets.diagonals == [[101 + number for number in range(heads)]] * layers
    copied = export_model(tmp_path / "out.gguf", tmp_path / "copy.gguf")
    assert read_budgets(read(copied.files[0])[0], "copy.gguf") == budgets
    with dca_runtime.Model(tmp_path / "copy.gguf", device="cpu") as model:
        with model.session(context=700, prefill="stated", record_selection=True) as session:
            session.score([number % 90 for number in range(700)])
            chosen = session.line_selection()
    assert {len(each.columns) for each in chosen if each.layer == 1 and each.stop > 200} == {41}
    assert {len(each.diagonals) for each in chosen if each.head == 1 and each.stop > 200} == {102}
