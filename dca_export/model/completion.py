"""config.json completed with what its family's classes take where it is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dca_export.checkpoint.tensors import Checkpoint
from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.architectures import find_architecture

# Of classes whose layers differ by it (model.windows, model.rope), what config.json's model_type may be.
MODEL_TYPES = {
    "Gemma2ForCausalLM": ("gemma2",),
    "Gemma3ForCausalLM": ("gemma3_text", "gemma3"),
    "Gemma3ForConditionalGeneration": ("gemma3_text", "gemma3"),
    "GptOssForCausalLM": ("gpt_oss",),
    "Cohere2ForCausalLM": ("cohere2",),
    "Olmo3ForCausalLM": ("olmo3",),
}


def completed(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with such a configuration, and of a multimodal model that of its text half.

    One of an architecture that is not known stays as it is, for find_architecture to refuse.
    """
    config = checkpoint.config
    try:
        architecture = find_architecture(config)
    except InputError:
        return checkpoint
    text = config.section("text_config")
    values: dict[str, Any] = {**config.values, **(text.values if text else {})}
    name = config.values["architectures"][0]
    values["architectures"] = config.values["architectures"]
    defaults = {**architecture.defaults, **architecture.class_defaults.get(name, {})}
    missing = {key: value for key, value in defaults.items() if key not in values}
    if values.get("rope_parameters") is not None or values.get("rope_scaling") is not None:
        missing.pop("rope_parameters", None)
    if values.get("rope_parameters") is not None:  # which states all but, perhaps, the base
        missing = {
            key: value for key, value in missing.items() if not key.startswith("rope_") or key == "rope_theta"
        }
    types = MODEL_TYPES.get(name)
    if types is not None and (stated := values.setdefault("model_type", types[0])) not in types:
        raise config.error("model_type", f"{name} is of type {types[0]}; {str(stated)[:40]!r} is another")
    return replace(checkpoint, config=Config(values | missing, config.where))
