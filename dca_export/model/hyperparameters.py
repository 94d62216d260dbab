"""The hyperparameters of a model: read from config.json, stated as GGUF keys."""

from __future__ import annotations

from typing import Any

from gguf import GGUFValueType

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.model.rope import original_context, rope_config, sliding_window
from dca_export.model.rules import Architecture, Dimensions
from dca_export.model.windows import ARCHITECTURES as WINDOWED
from dca_export.model.windows import check_unrotated_layers, kept_windows

Entries = dict[str, tuple[GGUFValueType, Any]]
"""GGUF key to (value type, value)."""

MAX_LAYERS = 4096  # more than any model has; a forged count must not keep the exporter busy

U32, F32, BOOL = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.BOOL


def read_dimensions(config: Config, architecture: Architecture) -> Dimensions:
    """The sizes that config.json states, checked against each other. Raises InputError."""
    for key, allowed in architecture.required.items():
        if config.values.get(key, allowed[0]) not in allowed:
            raise config.error(key, f"{architecture.classes[0]} is supported with {allowed[0]!r} only")
    layers = config.integer("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise config.error("num_hidden_layers", f"must be at most {MAX_LAYERS}")
    if architecture.unrotated_period:
        check_unrotated_layers(config, architecture.unrotated_period, layers)
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"must divide num_attention_heads {heads}")
    if "head_dim" not in config and width % heads:
        raise config.error(
            "num_attention_heads", f"must divide hidden_size {width} where head_dim is missing"
        )
    head_dim = config.integer("head_dim", width // heads)
    if head_dim % 2:
        raise config.error("head_dim", "must be even")
    rope = rope_config(config)
    if not architecture.partly_rotated and rope.positive("partial_rotary_factor", 1.0) != 1.0:
        raise rope.error(
            "partial_rotary_factor", f"must be 1: {architecture.classes[0]} turns all values of a head"
        )
    return Dimensions(
        layers=layers,
        vocab=config.integer("vocab_size"),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=config.integer("intermediate_size"),
        window=sliding_window(config) or 0,
        original_context=original_context(config),
        **{word: _first_stated(config, keys) for word, keys in architecture.sizes.items()},
    )


def _first_stated(config: Config, keys: tuple[str, ...]) -> int:
    for key in keys:
        if key in config:
            return config.integer(key)
    raise InputError(f"{config.where}: {' or '.join(keys)} is missing")


def model_entries(
    config: Config, architecture: Architecture, dimensions: Dimensions, context_length: int
) -> Entries:
    """Every `{architecture}.*` key of a model but those of RoPE and of the DCA scheme."""
    entries: Entries = {
        "block_count": (U32, dimensions.layers),
        "context_length": (U32, context_length),
        "embedding_length": (U32, dimensions.width),
        "feed_forward_length": (U32, dimensions.ff),
        "attention.head_count": (U32, dimensions.heads),
        "attention.head_count_kv": (U32, dimensions.kv_heads),
        architecture.epsilon[0]: (F32, config.positive(architecture.epsilon[1])),
        "attention.key_length": (U32, dimensions.head_dim),
        "attention.value_length": (U32, dimensions.head_dim),
    }
    windows = kept_windows(config)
    for key, word in architecture.keys.items():
        if word != "window" or windows or architecture.name not in WINDOWED:
            entries[key] = (U32, dimensions.size(word))
    if windows:
        entries |= windows.entries()
    for key, number in architecture.numbers.items():
        if (value := number(config, dimensions)) is not None:
            entries[key] = (F32, value)
    for key, stated in architecture.flags.items():
        entries[key] = (BOOL, config.boolean(stated, False))
    if dimensions.experts:
        used = config.integer("num_experts_per_tok")
        if used > dimensions.experts:
            raise config.error(
                "num_experts_per_tok", f"must be at most {dimensions.experts}, the experts there are"
            )
        entries |= {"expert_count": (U32, dimensions.experts), "expert_used_count": (U32, used)}
        normalised = config.boolean("norm_topk_prob", architecture.norm_topk_unstated)
        if normalised != architecture.norm_topk:
            entries["expert_weights_norm"] = (BOOL, normalised)
    return {f"{architecture.name}.{key}": value for key, value in entries.items()}
