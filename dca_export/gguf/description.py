"""What a GGUF file tells people about a model: name, licence, generation defaults and the like.

None of it is needed to run the model, so what cannot be understood is passed over.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf

_WHOLE_NUMBERS = ("sampling_top_k", "sampling_penalty_last_n", "sampling_mirostat")


def add_description(writer: gguf.GGUFWriter, directory: Path, parameters: int) -> None:
    """Adds the general.* keys that follow from the model card, generation_config.json and the name."""
    directory = directory.resolve()
    description = _read(directory, parameters)
    for name, value in vars(description).items():
        if name.startswith("sampling_") and not _is_sampling_value(name, value):
            setattr(description, name, None)
    description.name = description.name or directory.name
    if description.size_label is None:
        description.size_label = gguf.size_label(*writer.get_total_parameter_count())
    description.set_gguf_meta_model(writer)


def _read(directory: Path, parameters: int) -> gguf.Metadata:
    logging.getLogger("gguf.metadata").setLevel(logging.ERROR)
    try:
        return gguf.Metadata.load(None, directory, None, parameters)
    except Exception:  # gguf trusts the shape of what people write into model cards
        return gguf.Metadata()


def _is_sampling_value(name: str, value: Any) -> bool:
    """Whether a value of generation_config.json has the type that its key has in GGUF."""
    if name == "sampling_sequence":
        return isinstance(value, str)
    wanted = int if name in _WHOLE_NUMBERS else int | float
    return isinstance(value, wanted) and not isinstance(value, bool)
