"""Results files: what is written down, and how a run goes on from them."""

import json
import os
from pathlib import Path

import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import results

HEAD = {"experiment": "passkey", "model": {"file": "m"}, "settings": {"seed": 0}, "command": ["a"]}
CELLS = [{"method": "plain", "length": length} for length in (1, 2, 3)]


def measure(cell, progress):
    progress(1, 2)
    return {"found": cell["length"] * 10}


def silent(*_):
    pass


def test_cells_are_measured_once_and_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    first = results.open_results(path, HEAD)
    results.measure_cells(first, CELLS[:2], measure, silent)
    again = results.open_results(path, HEAD | {"command": ["b"]})
    asked = []
    results.measure_cells(again, CELLS, lambda cell, p: asked.append(cell) or measure(cell, p), silent)
    assert asked == CELLS[2:]
    assert [again[cell]["found"] for cell in CELLS] == [10, 20, 30]
    assert results.read_results(path).values("length") == [1, 2, 3]


def test_an_interruption_loses_only_the_cell_in_progress(tmp_path):
    path = tmp_path / "results.jsonl"

    def interrupted(cell, progress):
        if cell["length"] == 3:
            raise KeyboardInterrupt
        return measure(cell, progress)

    with pytest.raises(KeyboardInterrupt):
        results.measure_cells(results.open_results(path, HEAD), CELLS, interrupted, silent)
    assert results.read_results(path).values("length") == [1, 2]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_short_is_measured_again(tmp_path, cut):
    path = tmp_path / "results.jsonl"
    results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
    assert path.read_bytes() == whole


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = results.open_results(None, HEAD)
    results.measure_cells(kept, CELLS, measure, silent)
    assert kept[CELLS[0]] == {"found": 10}
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_cells():
    seen = []
    results.measure_cells(results.Results(HEAD), CELLS, measure, lambda *call: seen.append(call[:2]))
    assert seen == [(0, 3), (0.5, 3), (1, 3), (1.5, 3), (2, 3), (2.5, 3), (3, 3)]


@pytest.mark.parametrize(
    "change", [{"experiment": "other"}, {"model": {"file": "n"}}, {"settings": {"seed": 1}}]
)
def test_results_of_another_run_are_refused(tmp_path, change):
    path = tmp_path / "results.jsonl"
    results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"results.jsonl.*{next(iter(change))}"):
        results.open_results(path, HEAD | change)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["no json\n", "[1]\n", "{}\n", json.dumps(HEAD) + "\n3\n", json.dumps(HEAD) + '\n{"cell": 1}\n', "x"],
)
def test_a_file_that_holds_no_results_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="results.jsonl"):
        results.open_results(path, HEAD)
    assert path.read_text() == content


def test_fields_select_cells():
    kept = results.Results(HEAD)
    results.measure_cells(kept, [*CELLS, {"method": "dca", "length": 1}], measure, silent)
    assert [cell["length"] for cell, _ in kept.cells(method="plain")] == [1, 2, 3]
    assert kept.values("method", length=1) == ["plain", "dca"]
    assert kept.values("method", length=2) == ["plain"]


def test_the_header_tells_models_apart(tiny_gguf):
    heads = []
    for fields in ({"seed": 1}, {"seed": 1}, {"seed": 2}):
        with dca.Model(tiny_gguf(**fields)) as model:
            heads.append(results.header("passkey", model, {}, []))
    assert heads[0]["model"] == heads[1]["model"] != heads[2]["model"]
    assert heads[0]["model"]["context_length"] == 64


def test_the_header_tells_models_apart_that_begin_alike(tiny_gguf, tmp_path):
    """A vocabulary alone may take the first MiB; two trainings of one model are as long as each other."""
    data = tiny_gguf(vocab=8000).read_bytes()
    heads = []
    for last in (b"\x00", b"\x3f"):
        (tmp_path / "m.gguf").write_bytes(data[:-1] + last)
        with dca.Model(tmp_path / "m.gguf") as model:
            heads.append(results.header("passkey", model, {}, [])["model"])
    one, other = heads
    assert len(data) > 1 << 20 and one["sha256_of_first_mib"] == other["sha256_of_first_mib"]
    assert one != other


def test_a_file_of_an_earlier_version_goes_on(tmp_path):
    path = tmp_path / "results.jsonl"
    results.measure_cells(results.open_results(path, HEAD), CELLS[:1], measure, silent)
    head = HEAD | {"model": HEAD["model"] | {"sha256_of_pieces": "0"}}
    assert CELLS[0] in results.open_results(path, head)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_cannot_be_read_again_is_refused(tmp_path, kind):
    path = Path("/dev/null")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with pytest.raises(InputError, match=f"{path}: is no ordinary file"):
        results.open_results(path, HEAD)


def test_a_run_that_goes_on_otherwise_says_so(tmp_path):
    path = tmp_path / "results.jsonl"
    head = HEAD | {"device": "cpu", "versions": {"libdca": "1"}, "started": "then"}
    later = {"started": "now"}
    for cells, change in enumerate([{}, later, later | {"device": "cuda:0"}], start=1):
        kept = results.open_results(path, head | change)
        results.measure_cells(kept, CELLS[:cells], measure, silent)
    read = results.read_results(path)
    assert read.sittings == kept.sittings
    assert read.sittings == [
        {"command": ["a"], "device": "cuda:0", "versions": {"libdca": "1"}, "started": "now"}
    ]
    assert read.values("length") == [1, 2, 3]


def test_a_run_with_nothing_left_to_measure_leaves_no_trace(tmp_path):
    path = tmp_path / "results.jsonl"
    results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
    before = path.read_bytes()
    results.measure_cells(results.open_results(path, HEAD | {"command": ["b"]}), CELLS, measure, silent)
    assert path.read_bytes() == before


def test_a_run_that_ended_in_its_first_line_begins_anew(tmp_path):
    path = tmp_path / "results.jsonl"
    results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
    whole = path.read_bytes()
    for cut in (0, 1, 5, 20, whole.index(b"\n")):
        path.write_bytes(whole[:cut])
        results.measure_cells(results.open_results(path, HEAD), CELLS, measure, silent)
        assert path.read_bytes() == whole
