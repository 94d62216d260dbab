"""Tensor names: what wraps a model when it is saved changes nothing."""

import pytest
from tiny_hf import tiny_config, tiny_tensors

from dca_export.checkpoint.names import plain_names
from dca_export.errors import InputError

PLAIN = list(tiny_tensors(tiny_config()))


def renamed(names: list[str]) -> tuple[list[str], list[str]]:
    plain, notes = plain_names(names, "m")
    return list(plain.values()), notes


def test_names_of_transformers_stay():
    assert renamed(PLAIN) == (PLAIN, [])


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "base_model.model.",
        "language_model.",
        "_fsdp_wrapped_module.",
        "_forward_module.",
        "policy.",
    ],
)
def test_a_wrapper_in_front(prefix):
    names, notes = renamed([prefix + name for name in PLAIN])
    assert names == PLAIN
    assert len(notes) >= 1 and prefix.split(".")[0] in " ".join(notes)


def test_a_wrapper_of_each_layer():
    inner = [name.replace(".mlp.", "._checkpoint_wrapped_module.mlp._orig_mod.") for name in PLAIN]
    names, notes = renamed(inner)
    assert names == PLAIN
    assert "_checkpoint_wrapped_module." in notes[0]


def test_saved_without_the_head():
    names, notes = renamed([name.removeprefix("model.") for name in PLAIN if name != "lm_head.weight"])
    assert names == [name for name in PLAIN if name != "lm_head.weight"]
    assert "lack model." in notes[0]


def test_the_head_outside_the_unnamed_stack():
    assert renamed([name.removeprefix("model.") for name in PLAIN])[0] == PLAIN


@pytest.mark.parametrize(
    "head", ["lm_head.weight", "model.lm_head.weight", "model.language_model.lm_head.weight"]
)
def test_the_text_half_of_a_multimodal_model(head):
    text = [
        f"model.language_model.{name.removeprefix('model.')}" for name in PLAIN if name != "lm_head.weight"
    ]
    vision = ["model.visual.patch.weight", "model.visual.norm.weight", "multi_modal_projector.weight"]
    names, notes = renamed([*text, head, *vision])
    assert sorted(names) == sorted(PLAIN)
    assert "2 of visual" in notes[-1] and "1 of multi_modal_projector" in notes[-1]


def test_what_belongs_to_no_part_is_left_for_the_layout_to_refuse():
    assert renamed([*("module." + name for name in PLAIN), "v_head.weight"])[0] == [*PLAIN, "v_head.weight"]


def test_two_tensors_of_one_name():
    with pytest.raises(InputError, match="are both model.norm.weight"):
        renamed([*PLAIN, "model._orig_mod.norm.weight"])


@pytest.mark.parametrize(
    "name", ["q_proj.lora_A.weight", "q_proj.base_layer.weight", "q.lora_B.default.weight"]
)
def test_an_adapter_that_is_not_merged(name):
    with pytest.raises(InputError, match="belongs to an adapter .LoRA. that is not merged"):
        renamed([*PLAIN, f"model.layers.0.self_attn.{name}"])
