"""Rotary embedding: what config.json states, as the keys and tensors GGUF files state it with.

Kinds and keys follow llama.cpp: `{architecture}.rope.freq_base`, `.rope.dimension_count`,
`.rope.scaling.*`, and frequency factors as tensors. The config may state the kind in `rope_parameters`
(transformers 5) or in `rope_scaling` with `rope_theta` beside it (before).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gguf import GGUFValueType

from dca_export.config import Config
from dca_export.model.windows import kept_windows

KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_OTHER_NAMES = {"su": "longrope"}  # Phi-3's first configs

DEFAULT_BASE = 10000.0
ORIGINAL = "original_max_position_embeddings"
DUAL_CHUNK = "dual_chunk_attention_config"  # where Qwen's models state a scheme

# Families whose windows' base engines know without a key; those whose YaRN does not round its ramp's ends.
WINDOW_BASES = {"gemma3_text": 10000.0, "gemma3": 10000.0}
EXACT_RAMPS = ("gpt_oss",)

LENGTH, OLD_LENGTH = "max_position_embeddings", "max_sequence_length"

F32, U32, TEXT = GGUFValueType.FLOAT32, GGUFValueType.UINT32, GGUFValueType.STRING
BOOL = GGUFValueType.BOOL


@dataclass(frozen=True)
class TrainedLength:
    """Tokens a model was trained on, and where that number comes from."""

    tokens: int
    source: str


@dataclass(frozen=True)
class Rope:
    """Rotary settings of a model: keys without their architecture prefix, and tensors by name (f32)."""

    kind: str
    entries: dict[str, tuple[GGUFValueType, Any]]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def rope_config(config: Config) -> Config:
    """The object that states the kind of RoPE, completed with what older configs state beside it."""
    stated = config.section("rope_parameters") or config.section("rope_scaling")
    if stated is not None and (whole := stated.section("full_attention")) is not None:
        stated = whole  # layers with a window have their own (window_rope)
    values = dict(stated.values) if stated else {}
    where = stated.where if stated else config.where
    for key in ("rope_theta", "partial_rotary_factor", ORIGINAL):
        if values.get(key) is None and key in config:
            values[key] = config.values[key]
    return Config(values, where)


def window_base(config: Config) -> float | None:
    """The base that layers with a window have of their own; None where they have that of the others."""
    stated = config.section("rope_parameters")
    of_windows = stated.section("sliding_attention") if stated else None
    if of_windows is not None:
        if rope_kind(of_windows) != "default":
            raise of_windows.error("rope_type", "must be default in layers with a window")
        return of_windows.positive("rope_theta", DEFAULT_BASE)
    return config.positive("rope_local_base_freq") if "rope_local_base_freq" in config else None


def rope_kind(rope: Config) -> str:
    """One of KINDS."""
    key = "rope_type" if "rope_type" in rope else "type"
    stated = rope.text(key, "default").lower()
    kind = _OTHER_NAMES.get(stated, stated)
    if kind not in KINDS:
        raise rope.error(key, f"must be one of {', '.join(KINDS)}")
    return kind


def context_length(config: Config) -> TrainedLength:
    """The context a model was made for, in positions as its RoPE counts them.

    That is max_position_embeddings. Position interpolation counts in scaled positions, and so does YaRN where
    the model was trained on after it; some of those give the length before scaling there and the one after it
    elsewhere.
    """
    rope = rope_config(config)
    found = _stated_length(config)
    if rope_kind(rope) != "linear" and not _finetuned_yarn(rope):
        return found
    if ORIGINAL in rope:
        scaled = int(rope.integer(ORIGINAL) * rope.positive("factor"))
        if scaled > found.tokens:
            found = TrainedLength(scaled, f"{ORIGINAL} times the factor of {rope_kind(rope)} scaling")
    if OLD_LENGTH in config and config.integer(OLD_LENGTH) > found.tokens:
        found = TrainedLength(config.integer(OLD_LENGTH), OLD_LENGTH)
    return found


def _stated_length(config: Config) -> TrainedLength:
    """max_position_embeddings, or what the first Llama configs call it."""
    key = OLD_LENGTH if LENGTH not in config and OLD_LENGTH in config else LENGTH
    return TrainedLength(config.integer(key), key)


def _finetuned_yarn(rope: Config) -> bool:
    """Whether a model was trained on after YaRN stretched it, as its config.json says."""
    return rope_kind(rope) == "yarn" and rope.boolean("finetuned", False)


def trained_length(config: Config) -> TrainedLength:
    """How far apart the tokens were that a model saw in training: the default for a scheme's c.

    The context length, except that YaRN (unless the model was trained on after it) and a stated scheme name
    the length before them, and that a sliding window hides all longer distances.
    """
    rope = rope_config(config)
    found = context_length(config)
    scheme = config.section(DUAL_CHUNK)
    if scheme is not None and ORIGINAL in scheme:
        found = TrainedLength(scheme.integer(ORIGINAL), f"{ORIGINAL} of {DUAL_CHUNK}")
    if rope_kind(rope) == "yarn" and ORIGINAL in rope and not _finetuned_yarn(rope):
        found = TrainedLength(rope.integer(ORIGINAL), f"{ORIGINAL}, before YaRN")
    window = sliding_window(config)
    if window is not None and window < found.tokens and kept_windows(config) is None:
        return TrainedLength(window, "sliding_window, the longest distance seen in training")
    return found


def original_context(config: Config) -> int:
    """Tokens before any scaling of RoPE, where config.json states them; else the context length it states."""
    return rope_config(config).integer(ORIGINAL, _stated_length(config).tokens)


def sliding_window(config: Config) -> int | None:
    """The window of a model of which a layer was trained with one, else None."""
    if "sliding_window" not in config:
        return None
    window = config.integer("sliding_window", lowest=0)
    return window if window and _some_layer_has_a_window(config) else None


def _some_layer_has_a_window(config: Config) -> bool:
    """Whether transformers gives a window to any layer of a model whose config.json states one."""
    family = config.text("model_type", "")
    if family == "llama":
        return False
    # Qwen's classes take it for false where it is not stated; the others do not know it.
    if not config.boolean("use_sliding_window", not family.startswith("qwen")):
        return False
    if family not in ("qwen2", "qwen2_moe", "qwen3"):
        return True
    kinds = config.values.get("layer_types")
    if isinstance(kinds, list):
        return "sliding_attention" in kinds
    border = config.integer("max_window_layers", 28, lowest=0)
    # Qwen2-MoE has windows in every other layer below the border, the others in all layers from there on.
    return border > 0 if family == "qwen2_moe" else config.integer("num_hidden_layers") > border


def read_rope(config: Config, head_dim: int, length: int) -> Rope:
    """The rotary settings of `config`, for heads of `head_dim` and positions below `length`.

    `length` matters to dynamic NTK alone, whose base grows with it; a file states one base.
    """
    rope = rope_config(config)
    kind = rope_kind(rope)
    family = config.text("model_type", "")
    base = rope.positive("rope_theta", DEFAULT_BASE)
    if kind == "yarn" and rope.boolean("truncate", True) == (family in EXACT_RAMPS):
        raise rope.error("truncate", f"must be {str(family not in EXACT_RAMPS).lower()} in this family")
    if "llama_4_scaling_beta" in rope:
        raise rope.error("llama_4_scaling_beta", "queries scaled by their position are not supported")
    dimension = int(head_dim * rope.positive("partial_rotary_factor", 1.0))
    if dimension < 2 or dimension % 2 or dimension > head_dim:
        raise rope.error("partial_rotary_factor", f"must leave an even number of a head's {head_dim} values")
    entries: dict[str, tuple[GGUFValueType, Any]] = {"rope.dimension_count": (U32, dimension)}
    tensors: dict[str, np.ndarray] = {}
    if kind == "dynamic":
        base = _dynamic_base(config, rope, base, dimension, length)
    elif kind == "linear":
        entries |= _scaling("linear", rope.positive("factor"))
    elif kind == "yarn":
        entries |= _yarn(config, rope)
    elif kind == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(rope, base, dimension)
    elif kind == "longrope":
        entries |= _longrope(config, rope)
        for name in ("long", "short"):
            tensors[f"rope_factors_{name}.weight"] = _factors(rope, f"{name}_factor", dimension)
    entries["rope.freq_base"] = (F32, base)
    of_windows = window_base(config)
    if (
        of_windows is not None
        and kept_windows(config) is not None
        and of_windows != WINDOW_BASES.get(family, base)
    ):
        entries["rope.freq_base_swa"] = (F32, of_windows)
    return Rope(kind, entries, tensors)


def _scaling(kind: str, factor: float) -> dict[str, tuple[GGUFValueType, Any]]:
    return {"rope.scaling.type": (TEXT, kind), "rope.scaling.factor": (F32, factor)}


def _dynamic_base(config: Config, rope: Config, base: float, dimension: int, length: int) -> float:
    """The base that NTK-aware scaling reaches at `length` tokens (none up to the trained length)."""
    if dimension == 2:
        return base
    factor = rope.positive("factor")
    stretch = max(1.0, length / _stated_length(config).tokens)
    return base * (factor * stretch - (factor - 1)) ** (dimension / (dimension - 2))


def _yarn(config: Config, rope: Config) -> dict[str, tuple[GGUFValueType, Any]]:
    original = original_context(config)
    factor = rope.positive("factor", _stated_length(config).tokens / original)
    entries = _scaling("yarn", factor)
    entries["rope.scaling.original_context_length"] = (U32, original)
    if _finetuned_yarn(rope):
        entries["rope.scaling.finetuned"] = (BOOL, True)
    for key in ("beta_fast", "beta_slow"):
        if key in rope:
            entries[f"rope.scaling.yarn_{key}"] = (F32, rope.positive(key))
    magnitude = (
        rope.positive("attention_factor") if "attention_factor" in rope else _yarn_magnitude(rope, factor)
    )
    # The engines multiply what the file states by YaRN's own 0.1 ln(factor) + 1.
    relative = magnitude / _magnitude(factor)
    if not math.isclose(relative, 1.0, rel_tol=1e-6):
        entries["rope.scaling.attn_factor"] = (F32, relative)
    return entries


def _yarn_magnitude(rope: Config, factor: float) -> float:
    if rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        return _magnitude(factor, rope.positive("mscale")) / _magnitude(
            factor, rope.positive("mscale_all_dim")
        )
    return _magnitude(factor)


def _magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor on cos and sin (arXiv 2309.00071, eq. 22)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _llama3_factors(rope: Config, base: float, dimension: int) -> np.ndarray:
    """By how much Llama 3.1's scaling divides each frequency, f32 (dimension / 2,).

    Wavelengths that fit the original context often stay, those that hardly fit once are stretched by
    `factor`, and in between the frequency is blended.
    """
    factor, low = rope.positive("factor", 8.0), rope.positive("low_freq_factor", 1.0)
    high = rope.positive("high_freq_factor", 4.0)
    original = rope.integer(ORIGINAL, 8192)
    if low >= high:
        raise rope.error("low_freq_factor", f"must be below high_freq_factor {high}")
    # Step by step in f32, as PyTorch does it (a power correctly rounded), so that the file is llama.cpp's.
    f32 = np.float32
    exponents = np.arange(0, dimension, 2, dtype=f32) / f32(dimension)
    wavelengths = f32(2 * math.pi) / (f32(1) / np.power(base, exponents.astype(np.float64)).astype(f32))
    with np.errstate(all="ignore"):
        kept = np.clip((f32(original) / wavelengths - f32(low)) / f32(high - low), f32(0), f32(1))
        factors = f32(1) / ((f32(1) - kept) / f32(factor) + kept)
    if not np.isfinite(factors).all() or not (factors > 0).all():
        raise rope.error("factor", "gives frequencies that are 0 or not finite")
    return factors


def _longrope(config: Config, rope: Config) -> dict[str, tuple[GGUFValueType, Any]]:
    longest = _stated_length(config).tokens
    original = original_context(config)
    if original < 2:
        raise rope.error(ORIGINAL, "must be at least 2 for longrope, which divides by its logarithm")
    factor = longest / original if "factor" not in rope else rope.positive("factor")
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "rope.scaling.type": (TEXT, "longrope"),
        "rope.scaling.original_context_length": (U32, original),
        "rope.scaling.attn_factor": (F32, rope.positive("attention_factor", default)),
    }


def _factors(rope: Config, key: str, dimension: int) -> np.ndarray:
    values = rope.positives(key)
    if len(values) != dimension // 2:
        raise rope.error(
            key, f"must hold {dimension // 2} numbers, one for each frequency, not {len(values)}"
        )
    return np.array(values, np.float32)
