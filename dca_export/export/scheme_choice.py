"""Which scheme an export gets: what the user asked for, else what the model states, else the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile
from dca_export.model.rope import (
    DUAL_CHUNK,
    TrainedLength,
    context_length,
    original_context,
    rope_config,
    rope_kind,
    trained_length,
)
from dca_export.model.windows import ARCHITECTURES as WINDOWED
from dca_export.scheme import Scheme, SchemeError, StringBorder
from dca_export.small_files import is_there

# What stated_budgets.py reads of the same section.
BUDGET_SETTINGS = frozenset(
    f"sparse_attention_{name}" for name in ("config", "enabled", "threshold", "last_q")
)
OTHER_CONFIG = "config_1m.json"  # beside config.json in Qwen3-2507's directories, with a scheme


@dataclass(frozen=True)
class SchemeOptions:
    """What the user said of the scheme; None: nothing. `dca` False: plain attention. `string`: STRING's
    border in place of a scheme."""

    dca: bool = True
    pretraining_length: int | None = None
    chunk_size: int | None = None
    local_window: int | None = None
    string: StringBorder | None = None


def string_border(text: str) -> StringBorder:
    """Reads "S/W". Raises InputError."""
    border, _, local_window = text.partition("/")
    if not (border.isdecimal() and local_window.isdecimal()):
        raise InputError(f"expected S/W in tokens, got {text!r}")
    return StringBorder(int(border), int(local_window))


@dataclass(frozen=True)
class SchemeChoice:
    """A scheme, STRING's border, or neither (plain attention), and one phrase on where it comes from."""

    scheme: Scheme | None
    source: str
    border: StringBorder | None = None


def choose_scheme(
    options: SchemeOptions, trained: TrainedLength, stated: SchemeChoice | None
) -> SchemeChoice:
    """The scheme for a model trained on `trained`, which itself states `stated` (None: nothing).

    Options override; what depends on one follows it by the paper's rule (s = ¾·c, w = c - s).
    """
    if options.string is not None:
        return SchemeChoice(None, "as asked for", options.string)
    if not options.dca:
        return SchemeChoice(None, "not wanted")
    asked = [options.pretraining_length, options.chunk_size, options.local_window]
    if stated is not None and (stated.scheme or stated.border) and asked == [None] * 3:
        return stated
    base = stated.scheme if stated is not None else None
    c = options.pretraining_length or (base.pretraining_length if base else trained.tokens)
    s, w = options.chunk_size, options.local_window
    try:
        if s is None:
            s = base.chunk_size if base and not options.pretraining_length else Scheme.paper(c).chunk_size
        if w is None:
            keeps_window = base and not options.pretraining_length and not options.chunk_size
            w = base.local_window if base and keeps_window else max(0, c - s)
        if base is None:
            scheme = Scheme(s, w, c)
        else:
            scheme = Scheme(s, w, c, base.logit_scale, base.logit_scale_length)
    except SchemeError as error:
        raise InputError(f"the scheme asked for is not valid: {error}") from None
    if asked != [None] * 3:
        return SchemeChoice(scheme, "as asked for")
    return SchemeChoice(scheme, "the paper's default")


def stated_by_config(config: Config) -> tuple[SchemeChoice | None, list[str]]:
    """The scheme that config.json states in Qwen's way, and notes on what it states there that nothing here
    reads."""
    section = config.section(DUAL_CHUNK)
    if section is None:
        return None, []
    try:
        scheme = Scheme.from_dual_chunk_config(section.values)
    except SchemeError as error:
        raise InputError(f"{config.where}: {error}") from None
    sparse = sorted(
        key for key in section.values if key.startswith("sparse_attention") and key not in BUDGET_SETTINGS
    )
    notes = [f"{DUAL_CHUNK}: {', '.join(sparse)} not used"] if sparse else []
    return SchemeChoice(scheme, DUAL_CHUNK), notes


def stated_elsewhere(config: Config, directory: Path) -> list[str]:
    """A note, if the directory holds a second configuration with a scheme and config.json has none."""
    other = directory / OTHER_CONFIG
    if DUAL_CHUNK in config or not is_there(other) or DUAL_CHUNK not in Config.read(other):
        return []
    return [f"{OTHER_CONFIG} states a scheme; put it in the place of config.json to use that one"]


def beyond_training(choice: SchemeChoice, reach: int | None) -> list[str]:
    """A note, if the scheme has distances above `reach`, those that mean something to the model.

    One more is let pass: Qwen's configurations state it.
    """
    if choice.scheme is None or reach is None or choice.scheme.pretraining_length <= reach + 1:
        return []
    return [
        f"pretraining_length {choice.scheme.pretraining_length:,} is above the {reach:,} tokens the model "
        "was trained on, and no RoPE scaling explains it: it will meet distances new to it"
    ]


def reach_of_config(config: Config) -> int | None:
    """The trained length, or what RoPE scaling stretches it to; None (dynamic NTK): as far as is asked."""
    trained = trained_length(config).tokens
    rope = rope_config(config)
    kind = rope_kind(rope)
    if kind == "dynamic":
        return None
    if kind == "yarn":
        stretched = int(original_context(config) * rope.positive("factor", 1.0))
        return max(trained, stretched, context_length(config).tokens)
    return trained


def reach_of_gguf(file: GgufFile) -> int:
    """The trained length, or what RoPE scaling stretches it to."""
    trained = trained_length_of_gguf(file).tokens
    prefix = f"{file.architecture}.rope.scaling."
    factor = file.get(prefix + "factor")
    if file.get(prefix + "type", "none") == "none" or not isinstance(factor, float):
        return trained
    original = file.get(prefix + "original_context_length", trained)
    return max(trained, int(original * factor))


def trained_length_of_gguf(file: GgufFile) -> TrainedLength:
    """How far apart the tokens were that a GGUF model saw in training."""
    prefix = file.architecture
    key = f"{prefix}.context_length"
    if (
        f"{prefix}.rope.scaling.original_context_length" in file
        and file.get(f"{prefix}.rope.scaling.type") == "yarn"
        and file.get(f"{prefix}.rope.scaling.finetuned") is not True
    ):
        key = f"{prefix}.rope.scaling.original_context_length"
    tokens = file.get(key)
    if not isinstance(tokens, int) or tokens < 1:
        raise InputError(f"{file.path}: {key} is {tokens!r}, must be a positive integer")
    window = file.get(f"{prefix}.attention.sliding_window")
    if isinstance(window, int) and 0 < window < tokens and prefix not in WINDOWED:
        return TrainedLength(window, f"{prefix}.attention.sliding_window")
    return TrainedLength(tokens, key)
