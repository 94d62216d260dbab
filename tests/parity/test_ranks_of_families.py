"""Every architecture that the CPU runs, shared by two ranks, answers as it does on one."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make_case  # noqa: E402
from hf_to_gguf import write_gguf  # noqa: E402

from dca_runtime import DcaError, Model  # noqa: E402

WHOLE_NORMS = ("olmo2", "olmo3")  # norm q and k over all heads


@pytest.mark.parametrize("case", GGUF_CASES)
def test_two_ranks_answer_as_one(case, tmp_path):
    model, keys, extra = make_case(case)
    path = write_gguf(tmp_path / "model.gguf", model, keys, extra)
    ids = np.random.default_rng(0).integers(3, 61, 70).tolist()
    with Model(path) as one, one.session(context=70, cache_type="f32") as session:
        expected = session.eval(ids, all_logits=True)
    devices = ["cpu/2", "cpu/2/layers"]
    if case in WHOLE_NORMS:
        devices.remove("cpu/2")
        with pytest.raises(DcaError, match="norms q and k over all heads together"):
            Model(path, device="cpu/2")
    for device in devices:
        with Model(path, device=device) as two, two.session(context=70, cache_type="f32") as session:
            found = session.eval(ids, all_logits=True)
        assert np.abs(found - expected).max() < 2e-3 * max(np.abs(expected).max(), 1), device
