"""What config.json leaves out is what transformers' class takes; what contradicts the class is refused."""

import pytest

from dca_export.checkpoint.tensors import Checkpoint
from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.architectures import find_architecture
from dca_export.model.completion import completed
from dca_export.model.hyperparameters import model_entries, read_dimensions
from dca_export.model.rope import context_length, read_rope, trained_length

FAMILIES = {
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "stablelm": "StableLmForCausalLM",
}
SHAPES = ("num_key_value_heads",)  # where it is wrong, no tensor fits


def of_family(family: str) -> dict:
    """Everything that transformers' class takes, stated."""
    transformers = pytest.importorskip("transformers")
    values = transformers.AutoConfig.for_model(family).to_dict()
    return values | {"architectures": [FAMILIES[family]], "model_type": family}


def facts(values: dict) -> tuple:
    """What a file says of such a model."""
    config = completed(Checkpoint("model", Config(values, "config.json"), {})).config
    architecture = find_architecture(config)
    dimensions = read_dimensions(config, architecture)
    length = context_length(config).tokens
    rope = read_rope(config, dimensions.head_dim, length)
    entries = model_entries(config, architecture, dimensions, length) | rope.entries
    return dimensions, entries, trained_length(config).tokens, config.boolean("tie_word_embeddings", False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_that_is_left_out_is_the_class_s_or_asked_for(family):
    stated = of_family(family)
    wanted = facts(stated)
    for key in [key for key in stated if key not in ("architectures", *SHAPES)]:
        try:
            found = facts({other: value for other, value in stated.items() if other != key})
        except InputError as error:
            assert key in str(error) or "partial_rotary_factor" in str(error)
        else:
            assert found == wanted, key


@pytest.mark.parametrize("family", ["mixtral", "cohere", "smollm3", "gpt_oss"])
def test_the_base_that_rope_parameters_leave_out_is_the_class_s(family):
    stated = of_family(family)
    base = stated["rope_parameters"]["rope_theta"]
    assert facts(stated | {"rope_parameters": {"rope_type": "default"}})[1]["rope.freq_base"][1] == base


def test_a_type_that_is_not_the_class_s_is_refused():
    with pytest.raises(InputError, match="config.json: model_type is .*gemma2"):
        facts(of_family("gemma2") | {"model_type": "llama"})


@pytest.mark.parametrize("where", ["config", "rope_parameters"])
def test_a_part_of_a_head_is_refused_where_the_class_turns_all_of_it(where):
    part = {"partial_rotary_factor": 0.5}
    values = of_family("qwen2") | (
        part if where == "config" else {"rope_parameters": {"rope_theta": 1e4} | part}
    )
    with pytest.raises(InputError, match="partial_rotary_factor is 0.5, must be 1"):
        facts(values)
