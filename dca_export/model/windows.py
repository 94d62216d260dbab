"""Sliding windows that a family's files state and the runtime keeps, and which layers have one.

Elsewhere a window that config.json states is not used: every layer sees everything, as engines run those
families, and the window is the longest distance that the model was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from dca_export.config import Config

SLIDING, FULL = "sliding_attention", "full_attention"

# Of config.json's model_type: every so many layers one sees everything, where config.json lists none.
_PERIODS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "gpt_oss": 2, "cohere2": 4, "olmo3": 4}
# Of general.architecture, for files.
ARCHITECTURES = ("gemma2", "gemma3", "gpt-oss", "cohere2", "olmo2")
_LISTED = ("olmo3",)  # whose files list the layers even where the list is the usual one


@dataclass(frozen=True)
class Windows:
    """The last `tokens` tokens are what a layer with a window sees."""

    tokens: int
    layers: tuple[bool, ...]
    """which layers have it"""
    usual: bool
    """whether these are the layers that engines assume"""
    listed: bool

    def entries(self) -> dict[str, tuple[GGUFValueType, Any]]:
        """The keys beyond attention.sliding_window."""
        if self.usual and not self.listed:
            return {}
        return {"attention.sliding_window_pattern": (GGUFValueType.ARRAY, list(self.layers))}


def kept_windows(config: Config) -> Windows | None:
    """The windows that a file states; None for a family whose layers all see everything here."""
    family = config.text("model_type", "")
    if family not in _PERIODS or "sliding_window" not in config:
        return None
    tokens = config.integer("sliding_window")
    n = config.integer("num_hidden_layers")
    usual = tuple((layer + 1) % _PERIODS[family] != 0 for layer in range(n))
    layers = usual
    if "layer_types" in config:
        kinds = config.values["layer_types"]
        if (
            not isinstance(kinds, list)
            or len(kinds) != n
            or not all(kind in (SLIDING, FULL) for kind in kinds)
        ):
            raise config.error("layer_types", f"must list {n} times {SLIDING} or {FULL}")
        layers = tuple(kind == SLIDING for kind in kinds)
    elif "sliding_window_pattern" in config:
        period = config.integer("sliding_window_pattern")
        layers = tuple((layer + 1) % period != 0 for layer in range(n))
    if not any(layers):
        return None
    return Windows(tokens, layers, layers == usual, family in _LISTED)


def check_unrotated_layers(config: Config, period: int, layers: int) -> None:
    """Raises InputError unless every `period`-th layer is one without RoPE, and no other."""
    wanted = [int((layer + 1) % period != 0) for layer in range(layers)]
    if "no_rope_layers" in config:
        if config.values["no_rope_layers"] != wanted:
            raise config.error(
                "no_rope_layers", f"must have a 0 for every {period}th layer and 1 for the others"
            )
    elif config.integer("no_rope_layer_interval", period) != period:
        raise config.error("no_rope_layer_interval", f"must be {period}, as engines assume")
