"""Every family's export against the file that llama.cpp's converter made of the same model, key by key.

Its files (October 2026) are described in llama_cpp_families.json, which llama_cpp_families.py writes.
"""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from llama_cpp_families import CASES, RECORDED, described, export, save  # noqa: E402

RECORDS = json.loads(RECORDED.read_text(encoding="utf-8"))
CONVERTED = [case for case, found in RECORDS.items() if "tensors" in found]

# What an export says and the converter leaves to what a reader assumes.
SAID = (
    *("attention.key_length", "attention.value_length", "attention.scale", "rope.dimension_count"),
    *("rope.freq_base", "rope.scaling.type", "expert_weights_norm", "attention.sliding_window_pattern"),
    *("rope.scaling.attn_factor", "vocab_size"),
)
# What the converter says and an export does not: readers assume it, or do not read it.
UNSAID = {
    "rope.freq_base_swa": 10000.0,
    "rope.scaling.type": "none",
    "rope.scaling.yarn_attn_factor": 1.5,  # read by nobody; attn_factor says it
}


@pytest.fixture(scope="module", params=CONVERTED)
def both(request, tmp_path_factory):
    """The description of an export and the converter's, of one model."""
    directory = tmp_path_factory.mktemp("family")
    save(request.param, directory / "model")
    export(directory / "model", directory / "out.gguf")
    return described(directory / "out.gguf"), RECORDS[request.param]


def test_tensors_are_the_converters_to_the_byte(both):
    ours, theirs = both
    assert ours["tensors"] == theirs["tensors"]


def test_keys_are_the_converters(both):
    ours, theirs = (each["keys"] for each in both)
    prefix = theirs["general.architecture"] + "."
    for key, value in theirs.items():
        assert ours.get(key, UNSAID.get(key.removeprefix(prefix))) == value, key
    assert {key.removeprefix(prefix) for key in set(ours) - set(theirs)} <= set(SAID)


def test_every_case_is_recorded():
    assert set(RECORDS) == set(CASES)
