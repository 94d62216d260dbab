"""Names on the Hub, and which of a repository's files are taken."""

from pathlib import Path

import pytest

from dca_export.errors import InputError
from dca_export.hub.choice import checkpoint_files, chosen_gguf, gguf_files
from dca_export.hub.names import HubName, is_hub_name, is_safe, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:org/name", HubName("org/name")),
        ("hf:org/na.me-1_x@v1.0", HubName("org/na.me-1_x", None, "v1.0")),
        ("hf:org/name@refs/pr/7", HubName("org/name", None, "refs/pr/7")),
        ("hf:org/name/a b/model.gguf", HubName("org/name", "a b/model.gguf")),
        ("hf:org/name/model.gguf@main", HubName("org/name", "model.gguf")),
    ],
)
def test_names_are_read(text, name):
    assert parse(text) == name == parse(str(name))
    assert is_hub_name(text) and is_hub_name(Path(text))


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:name", "hf:/name", "hf:org/", "hf:org/..", "hf:../name", "hf:org/na--me", "hf:.org/name",
        "hf:org/name@", "hf:org/name@..", "hf:org/name@../../x", "hf:org/name@a//b", "hf:org/name@-x",
        "hf:org/name/",
        "hf:org/name/../x.gguf", "hf:org/name//x.gguf", "hf:org/name/x.safetensors", "hf:org/name/*.gguf",
        "hf:org/name/a\\b.gguf", "hf:org/name/./x.gguf", "hf:org/name\n", "hf:org/nam\u00e9",
    ],
)  # fmt: skip
def test_others_are_refused_in_one_line(text):
    if text == "hf:org/name@":
        text = "hf:org/name@ "
    with pytest.raises(InputError, match="expected hf:ORGANISATION/NAME"):
        parse(text)


def test_paths_stay_paths():
    assert (
        not is_hub_name("org/name") and not is_hub_name("./hf:org/name") and not is_hub_name(Path("x.gguf"))
    )


@pytest.mark.parametrize(
    "file", ["../x", "/etc/passwd", "a/../b", "a//b", "a\\..\\b", "C:x", "a\nb", "", ".", "a/."]
)
def test_names_that_lead_out_are_not_safe(file):
    assert not is_safe(file)


def test_the_gguf_file_is_chosen_by_its_type():
    files = [
        "m-F32.gguf",
        "m-Q2_K.gguf",
        "m-Q8_0.gguf",
        "m.Q4_K_M.gguf",
        "m-f16.gguf",
        "mmproj-f16.gguf",
        "README.md",
    ]
    order = ["m.Q4_K_M.gguf", "m-Q8_0.gguf", "m-f16.gguf", "m-Q2_K.gguf", "m-F32.gguf"]
    assert gguf_files(files) == order
    name = HubName("org/name")
    while order:
        assert chosen_gguf(name, order) == order.pop(0)
    assert chosen_gguf(name, ["config.json"]) is None


def test_parts_projectors_and_adapters_are_no_models():
    others = ["m-00001-of-00002.gguf", "mmproj-m-f16.gguf", "m-lora.gguf", "imatrix.gguf", "m.imatrix.gguf"]
    assert gguf_files(others) == []


def test_a_file_can_be_picked():
    files = ["a/m-Q8_0.gguf", "m-Q4_K_M.gguf"]
    assert chosen_gguf(HubName("org/name", "a/m-Q8_0.gguf"), files) == "a/m-Q8_0.gguf"
    with pytest.raises(InputError, match=r"has no file x\.gguf; it has m-Q4_K_M\.gguf, a/m-Q8_0\.gguf"):
        chosen_gguf(HubName("org/name", "x.gguf"), files)


def test_only_what_an_export_reads_is_taken_of_a_checkpoint():
    needed = ["config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/tool.jinja"]
    files = [
        *needed,
        "pytorch_model.bin",
        "onnx/model.onnx",
        "training_args.bin",
        "model-00001-of-00002.safetensors",
    ]
    assert checkpoint_files(HubName("org/name"), files) == sorted(needed)


def test_shards_are_taken_with_their_index():
    files = [
        "config.json",
        "model.safetensors.index.json",
        *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)),
    ]
    assert checkpoint_files(HubName("org/name"), [*files, "pytorch_model.bin"]) == sorted(files)


def test_a_repository_without_configuration_or_weights_is_no_checkpoint():
    assert checkpoint_files(HubName("org/name"), ["model.safetensors"]) == []
    assert checkpoint_files(HubName("org/name"), ["config.json", "weights.onnx"]) == []


@pytest.mark.parametrize("file", ["../../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "a\\b.gguf"])
def test_a_list_that_leads_out_of_the_cache_is_refused(file):
    with pytest.raises(InputError, match="not taken from strangers"):
        chosen_gguf(HubName("org/name"), [file])
