"""Faults too small for limits that leave room for a rounded cache: the pass with a cache in f32 finds each.

The models have small weights, so that attention is nearly uniform and a wrong position changes little.
"""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import damage  # noqa: E402
from models import CASES, LENGTH, write_model  # noqa: E402

from dca_export.parity.check import Report, check  # noqa: E402
from dca_export.parity.torch_reference import TorchReference  # noqa: E402
from dca_runtime import Model  # noqa: E402

TOKEN = 40


@pytest.fixture(scope="module", params=CASES)
def path(request, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf", request.param, "f16", spread=0.03)


def judged(path, reference, spoil=lambda model: None, **options) -> Report:
    with Model(path, "cpu") as model:
        spoil(model)
        return check(model, TorchReference(reference, "cpu", "f16"), LENGTH, weights="f16", **options)


def failed(report: Report) -> set[tuple[str, str, str]]:
    return {(part.group, part.fed, part.cache_type) for part in report.parts if part.failures}


def every(report: Report, group: str | None = None) -> set[tuple[str, str, str]]:
    """The parts with a cache in f32, of one attention."""
    return {
        (part.group, part.fed, part.cache_type)
        for part in report.parts
        if part.cache_type == "f32" and group in (None, part.group)
    }


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8"])
def test_a_right_runtime_passes_with_any_cache(path, cache_type):
    report = judged(path, path, cache_type=cache_type)
    assert failed(report) == set()
    assert {part.cache_type for part in report.parts} == {"f32", cache_type}


def test_a_window_two_tokens_short(path):
    report = judged(path, path, damage.short_window)
    assert every(report, "DCA") and every(report, "DCA") <= failed(report)


def test_one_column_of_logits_a_fiftieth_of_their_spread_off(path):
    report = judged(path, path, lambda model: damage.wrong_column(model, TOKEN, 0.02))
    assert every(report) and failed(report) == every(report)


def test_one_wrong_row_of_the_rotation(path):
    with damage.wrong_rotation(9):
        report = judged(path, path)
    assert every(report) and every(report) <= failed(report)


def test_a_row_of_zeros_in_a_projection_of_queries(path, tmp_path):
    fused = "phi3" in path.read_bytes()[:400].decode("latin-1")
    tensor = "blk.0.attn_qkv.weight" if fused else "blk.0.attn_q.weight"
    damaged = damage.zeroed_query_row(path, tmp_path / "d.gguf", tensor, 5)
    assert judged(path, path, against_original=True, rounded=False).passed
    assert not judged(damaged, path, against_original=True, rounded=False).passed


def test_another_tokens_row_of_the_vocabulary(path, tmp_path):
    damaged = damage.replaced_vocabulary_row(path, tmp_path / "d.gguf", 7, 30)
    assert not judged(damaged, path, against_original=True, rounded=False).passed
