"""The table of architectures: every entry is whole, and its names are the ones GGUF knows."""

import re

import gguf
import pytest

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.architectures import ARCHITECTURES, find_architecture, known_gguf_names
from dca_export.model.rules import Dimensions

SIZES = Dimensions(
    layers=2,
    vocab=320,
    width=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ff=96,
    experts=4,
    expert_ff=32,
    shared_ff=48,
)
EACH = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.classes[0])


def named(classes) -> Config:
    return Config({"architectures": classes}, "config.json")


@EACH
def test_every_class_is_found(architecture):
    for name in architecture.classes:
        assert find_architecture(named([name])) is architecture


def test_no_class_belongs_to_two_entries():
    classes = [name for architecture in ARCHITECTURES for name in architecture.classes]
    assert len(classes) == len(set(classes))


@EACH
def test_tensor_names_are_those_gguf_has_for_the_architecture(architecture):
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[architecture.name]
    names = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "{layer}") for tensor in gguf.MODEL_TENSORS[known]}
    names.add("output")  # families whose models are tied do not list it
    for rule in architecture.tensors:
        assert re.sub(r"\.(weight|bias)$", "", rule.target) in names


@EACH
def test_targets_are_written_once(architecture):
    targets = [rule.target for rule in architecture.tensors]
    assert len(targets) == len(set(targets))


@EACH
def test_every_word_of_a_shape_has_a_size(architecture):
    for rule in architecture.tensors:
        assert all(SIZES.size(word) > 0 for word in rule.shape)


@EACH
def test_layers_repeat_in_source_and_target_alike(architecture):
    for rule in architecture.tensors:
        assert ("{layer}" in rule.source) == ("{layer}" in rule.target)


def test_unknown_class_lists_the_known_ones():
    with pytest.raises(InputError, match="MambaForCausalLM is not supported; .*LlamaForCausalLM.*Qwen3Moe"):
        find_architecture(named(["MambaForCausalLM"]))


@pytest.mark.parametrize("classes", [None, [], "LlamaForCausalLM", [3]])
def test_no_class(classes):
    with pytest.raises(InputError, match="architectures is missing"):
        find_architecture(named(classes))


def test_gguf_names():
    assert known_gguf_names()[:6] == ("llama", "qwen2", "qwen3", "phi3", "qwen2moe", "qwen3moe")
    assert set(known_gguf_names()) <= set(gguf.MODEL_ARCH_NAMES.values())
