"""docs/models.md is what its script makes, and what the script says by hand is so."""

import re
from pathlib import Path

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


def test_a_card_refuses_the_architectures_that_need_more_than_rotation_and_mixtures():
    source = (Path(__file__).parents[1] / "native/core/hparams.cpp").read_text(encoding="utf-8")
    table = source[source.index("kArchitectures{") : source.index("const Architecture& find_architecture")]
    needs_more = set()
    for entry in table.split("Architecture{")[1:]:
        traits = set(re.findall(r"\.(\w+) = ", entry)) - {"name", "rope_layout", "expert_weights_norm"}
        if traits:
            needs_more.add(re.findall(r'\.name = "([^"]+)"', entry)[0])
    assert needs_more == models_table.CPU_ONLY
