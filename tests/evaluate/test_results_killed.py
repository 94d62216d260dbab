"""A run of dca-eval killed at any moment goes on from the cells it measured; none is lost or half there."""

from killing import ROUNDS, killed_at_random

from dca_export.evaluate import results

HEAD = {"experiment": "passkey", "model": {"file": "m"}, "settings": {"seed": 0}, "command": ["a"]}
CELLS = [{"method": "plain", "length": length} for length in range(40)]


def measure(cell, progress):
    return {"found": cell["length"] * 10, "text": "long " * 50}


def run(path):
    def work():
        results.measure_cells(results.open_results(path, HEAD), CELLS, measure, lambda *_: None)

    return work


def test_a_run_goes_on(tmp_path):
    path, whole = tmp_path / "results.jsonl", tmp_path / "whole.jsonl"
    run(whole)()
    for _ in killed_at_random(run(path), rounds=4 * ROUNDS):
        before = path.read_bytes() if path.exists() else b""
        kept = [] if before.count(b"\n") == 0 else results.read_results(path).values("length")
        assert kept == list(range(len(kept)))
        assert len(kept) == max(before.count(b"\n") - 1, 0)
        run(path)()
        assert path.read_bytes() == whole.read_bytes()
        path.unlink()
