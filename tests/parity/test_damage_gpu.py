"""How far clean and damaged runs lie apart on a card.

With -s it prints the figures that the limits for CUDA rest on (dca_export/parity/tolerance.py).
"""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import damage  # noqa: E402
from models import CASES, LENGTH, write_model  # noqa: E402

from dca_export.parity import tokens  # noqa: E402
from dca_export.parity.check import Report, check  # noqa: E402
from dca_export.parity.torch_reference import TorchReference  # noqa: E402
from dca_runtime import DcaError, Model  # noqa: E402
from dca_runtime.errors import Status  # noqa: E402

pytestmark = pytest.mark.gpu


def measured(path, weights: str, cache_type: str, spoil=lambda model: None) -> Report:
    try:
        with Model(path, "cuda") as model:
            spoil(model)
            reference = TorchReference(path, "cpu", weights)  # exact: no second rounding
            return check(model, reference, LENGTH, weights=weights, cache_type=cache_type)
    except DcaError as error:
        if error.status != Status.DEVICE:
            raise
        pytest.skip(f"needs an NVIDIA GPU: {error}")


def show(what: str, report: Report) -> None:
    found = [part.agreement for part in report.parts]
    print(
        f"\n{what:32} largest {max(f.relative_difference for f in found):.2e} σ, KL "
        f"{max(f.max_kl for f in found):.2e}, mean KL {max(f.mean_kl for f in found):.2e}, other top-1 "
        f"{max(f.top1_disagreements for f in found)} of {LENGTH}",
        end="",
    )


@pytest.mark.parametrize(("case", "weights"), list(itertools.product(CASES, ["f16", "bf16", "q8_0"])))
def test_clean_runs_pass(case, weights, tmp_path, monkeypatch):
    for seed in range(2):
        monkeypatch.setattr(tokens, "SEED", seed)
        path = write_model(tmp_path / f"{seed}.gguf", case, weights, seed=seed)
        for cache_type in ("f16", "bf16", "q8"):
            report = measured(path, weights, cache_type)
            show(f"{case} {weights}, {cache_type} cache, seed {seed}", report)
            assert report.passed, report.parts


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("window two tokens short", damage.short_window),
        ("column half a σ off", lambda model: damage.wrong_column(model, 40, 0.5)),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_damaged_runs_fail(case, kind, spoil, tmp_path):
    path = write_model(tmp_path / "m.gguf", case, "f16")
    report = measured(path, "f16", "f16", spoil)
    show(f"{case}, {kind}", report)
    assert not report.passed


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_row_of_the_rotation_fails(case, tmp_path):
    path = write_model(tmp_path / "m.gguf", case, "f16")
    with damage.wrong_rotation(9):
        report = measured(path, "f16", "f16")
    show(f"{case}, wrong rotation", report)
    assert not report.passed
