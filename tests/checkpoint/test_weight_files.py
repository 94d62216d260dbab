"""Which files hold the weights: transformers' order, and what is said where they are not all there."""

import json

import pytest

from dca_export.checkpoint.weight_files import adapter_error, find_weights
from dca_export.errors import InputError


def touch(directory, *names: str) -> None:
    for name in names:
        (directory / name).write_bytes(b"")


def index(directory, name: str, *shards: str) -> None:
    weight_map = {f"t{number}": shard for number, shard in enumerate(shards)}
    (directory / name).write_text(json.dumps({"weight_map": weight_map}))


def found(directory) -> list[str]:
    return [path.name for path in find_weights(directory).files]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("removed", range(5))
def test_the_order(tmp_path, removed):
    bins = ("pytorch_model-00001-of-00001.bin",)
    touch(tmp_path, "model.safetensors", *SHARDS, "pytorch_model.bin", *bins)
    index(tmp_path, "model.safetensors.index.json", *SHARDS)
    index(tmp_path, "pytorch_model.bin.index.json", *bins)
    order = [
        ("model.safetensors", ["model.safetensors"]),
        ("model.safetensors.index.json", list(SHARDS)),
        ("pytorch_model.bin", ["pytorch_model.bin"]),
        ("pytorch_model.bin.index.json", list(bins)),
    ]
    for name, _ in order[:removed]:
        (tmp_path / name).unlink()
    # Shards without an index come last.
    assert found(tmp_path) == (order[removed][1] if removed < len(order) else list(SHARDS))


def test_an_older_save_beside_a_whole_file_is_noted(tmp_path):
    touch(tmp_path, "model.safetensors", SHARDS[0])
    index(tmp_path, "model.safetensors.index.json", *SHARDS)
    (note,) = find_weights(tmp_path).notes
    assert "model.safetensors is read; model.safetensors.index.json beside it names 2 other files" in note
    assert "1 of them gone" in note


def test_an_index_of_the_whole_file_is_no_older_save(tmp_path):
    touch(tmp_path, "model.safetensors")
    index(tmp_path, "model.safetensors.index.json", "model.safetensors")
    assert find_weights(tmp_path).notes == []


def test_a_damaged_index_beside_a_whole_file_does_no_harm(tmp_path):
    touch(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert found(tmp_path) == ["model.safetensors"]


def test_shards_that_are_gone_are_counted(tmp_path):
    index(tmp_path, "model.safetensors.index.json", *SHARDS)
    with pytest.raises(
        InputError, match="00001-of-00002.safetensors: this shard.*missing, and so are 1 others"
    ):
        find_weights(tmp_path)


def test_shards_without_an_index_must_be_complete(tmp_path):
    touch(tmp_path, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    with pytest.raises(InputError, match="shard 2 of 3 is missing beside model-00001-of-00003.safetensors"):
        find_weights(tmp_path)


def test_shards_of_two_saves(tmp_path):
    touch(tmp_path, *SHARDS, "model-00001-of-00003.safetensors")
    with pytest.raises(InputError, match="are not the shards of one save"):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["consolidated.00.pth", "model.gguf", "tf_model.h5", "adapter.safetensors", "epoch=1.ckpt", "last.pt"],
)
def test_weights_under_another_name_are_named(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(InputError, match=f"no weights .*; {name} is there: "):
        find_weights(tmp_path)


@pytest.mark.parametrize("base", ["org/base", None, 7])
def test_an_adapter_is_recognised(tmp_path, base):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    touch(tmp_path, "adapter_model.safetensors", "config.json")
    text = str(adapter_error(tmp_path))
    assert "an adapter" in text and "merge it into its base model" in text
    assert ("of org/base" in text) == (base == "org/base")


def test_a_model_beside_an_adapter_is_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    touch(tmp_path, "model.safetensors")
    assert adapter_error(tmp_path) is None
