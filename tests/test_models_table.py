"""docs/models.md is what its script makes, and what the script says by hand is so."""

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import models_table  # noqa: E402

from dca_export.model.architectures import ARCHITECTURES  # noqa: E402


def test_the_document_is_current():
    assert models_table.DOCUMENT.read_text(encoding="utf-8") == models_table.document(), (
        "run tests/models_table.py"
    )


def test_the_version_named_is_the_one_the_tests_run_with():
    assert models_table.pinned_version() == transformers.__version__


def test_every_class_has_models_and_a_check():
    classes = {name for architecture in ARCHITECTURES for name in architecture.classes}
    assert set(models_table.MODELS) | {"LLaMAForCausalLM"} >= classes
    for architecture in ARCHITECTURES:
        assert any("as the class above" not in row for row in models_table.rows(architecture)), (
            architecture.name
        )
