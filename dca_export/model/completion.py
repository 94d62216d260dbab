"""config.json completed with what its family's classes take where it is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dca_export.checkpoint.tensors import Checkpoint
from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.architectures import find_architecture


def completed(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with such a configuration, and of a multimodal model that of its text half.

    One of an architecture that is not known stays as it is, for find_architecture to refuse.
    """
    config = checkpoint.config
    try:
        defaults = find_architecture(config).defaults
    except InputError:
        return checkpoint
    text = config.section("text_config")
    values: dict[str, Any] = {**config.values, **(text.values if text else {})}
    values["architectures"] = config.values["architectures"]
    missing = {key: value for key, value in defaults.items() if key not in values}
    if "rope_parameters" in config or (text is not None and "rope_parameters" in text):
        missing = {key: value for key, value in missing.items() if not key.startswith("rope_")}
    return replace(checkpoint, config=Config(values | missing, config.where))
