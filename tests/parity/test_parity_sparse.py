"""dca-parity of sparse prefill: it passes, and notices what is wrong."""

import dataclasses

import pytest
from hf_families import make_case
from hf_to_gguf import write_gguf

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.parity import sparse as sparse_parity
from dca_export.parity.chosen import TIE, TIE_ON_CARDS
from dca_export.parity.sparse import check_sparse, judged_with
from dca_export.parity.torch_reference import TorchReference
from dca_runtime.options import CACHE_TYPES

LENGTH = 1600
MODE = "sparse:0.7:512"
SPECIAL = ("gemma2", "gemma3", "gpt-oss", "smollm3", "granite", "cohere2")


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return tiny_gguf(scheme=(300, 100, 512), context_length=512)


def report(path, **options):
    with dca.Model(path, threads=1) as model:
        return check_sparse(model, TorchReference(path, "cpu", "f32"), LENGTH, MODE, weights="f32", **options)


@pytest.fixture(scope="module")
def clean(path):
    return report(path, cache_type="q8")


def test_it_passes(clean):
    assert clean.passed, [part.failures for part in clean.parts]
    assert {part.cache_type for part in clean.parts} == {"f32", "q8"}
    assert all(part.chosen.density < 1 for part in clean.parts if part.fed == "whole prefill")


def test_every_attention_and_two_ways_of_feeding_choose(clean):
    assert len({part.group for part in clean.parts}) == 2
    assert {part.fed for part in clean.parts} == {"whole prefill", "uneven pieces"}
    assert all(part.chosen.pages > 0 for part in clean.parts)


def test_other_choices_than_the_references_are_no_ties(path, monkeypatch):
    given = sparse_parity.by_layer

    def without_the_nearest(found, layers):
        changed = [
            dataclasses.replace(
                each, pages=tuple(page for page in each.pages if page[0] != each.start // 128 - 5)
            )
            for each in found
        ]
        return given(changed, layers)

    monkeypatch.setattr(sparse_parity, "by_layer", without_the_nearest)
    failures = [failure for part in report(path).parts for failure in part.failures]
    assert any("read by one side only" in failure for failure in failures)
    assert any("largest difference" in failure for failure in failures)  # and the attention is another


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_choices_are_judged_over_the_finest_cache_that_there_is(cache_type):
    assert judged_with(False, cache_type) == ("f32", TIE)
    assert judged_with(True, cache_type) == ("bf16" if cache_type == "bf16" else "f16", TIE_ON_CARDS)


def test_a_length_before_it_sets_in(path):
    with dca.Model(path) as model, pytest.raises(InputError, match="--length is 1024, must be at least 4480"):
        check_sparse(model, TorchReference(path, "cpu", "f32"), 1024, "sparse", weights="f32")


@pytest.mark.parametrize("case", SPECIAL)
def test_families_with_more_than_a_softmax(case, tmp_path):
    """Windows (their layers stay dense), caps, sinks, own softmax scales, layers that do not rotate."""
    model, keys, extra = make_case(case)
    scheme = dict(zip(("chunk_size", "local_window", "pretraining_length"), (300, 100, 512), strict=True))
    named = {f"attention.dca.{key}": value for key, value in scheme.items()}
    path = write_gguf(tmp_path / "m.gguf", model, {**keys, **named}, extra)
    with dca.Model(path, threads=1) as opened:
        found = check_sparse(
            opened, TorchReference(path, "cpu", "f32"), LENGTH, "sparse:0.9:512", weights="f32"
        )
        windowed = any("sliding_window" in key for key in opened.metadata)
        with opened.session(context=LENGTH, prefill="sparse:0.9:512", record_selection=True) as session:
            session.score(list(range(3, 60)) * 28)
            layers = {each.layer for each in session.selection()}
    assert found.passed, [part.failures for part in found.parts]
    assert (len(layers) < opened.info.n_layers) == windowed
