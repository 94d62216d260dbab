"""Warns of lengths that a model was not trained on."""

import warnings
from collections.abc import Mapping
from typing import Any

from dca_runtime.errors import DcaWarning
from dca_runtime.options import Scheme


def reach(trained: int, architecture: str, metadata: Mapping[str, Any], rope: str | None) -> int:
    """Tokens up to which distances mean something to a model: trained, or stretched by RoPE scaling.

    trained: the file's context_length.
    rope: a scaling in place of the file's, as ``Model.session`` takes it.
    """
    if rope is not None and rope.startswith("dynamic"):
        return 2**31  # the base grows with the positions
    if rope is not None:
        return int(trained * float(rope.partition(":")[2]))
    prefix = f"{architecture}.rope.scaling."
    factor = metadata.get(prefix + "factor")
    if metadata.get(prefix + "type", "none") == "none" or not isinstance(factor, float):
        return trained
    original = metadata.get(prefix + "original_context_length", trained)
    return max(trained, int(original * factor))


def warn_of_scheme(scheme: Scheme | None, known: int) -> None:
    """Warns where a session's scheme has distances beyond the ``known`` ones.

    One more is let pass: a scheme in Qwen's terms has it for a model trained to its chunk's length.
    """
    if scheme is not None and scheme.pretraining_length > known + 1 > 1:
        _warn(
            f"the scheme's pretraining_length {scheme.pretraining_length:,} is above the {known:,} tokens "
            "the model was trained on, and no RoPE scaling explains it: it will meet distances new to it",
            calls=1,
        )


def warn_of_length(tokens: int, known: int, scheme_in_file: bool) -> None:
    """Warns where a prompt of that many tokens for plain attention is longer than the ``known`` distances."""
    if tokens > known > 0:
        cure = (
            "leave the choice of attention to the file, which dca-export gave a scheme"
            if scheme_in_file
            else "dca-export gives such a file a scheme that reaches further"
        )
        _warn(
            f"the prompt has {tokens:,} tokens, and plain attention is good to the {known:,} the model was "
            f"trained on: {cure}",
            calls=2,
        )


def warn_of_border(border: str, tokens: int, distances: int, known: int) -> None:
    """Warns where a prompt of that many tokens has more ``distances`` under ``border`` than are ``known``."""
    if distances > known > 0:
        _warn(
            f"the prompt has {tokens:,} tokens, and attention {border} puts them up to {distances - 1:,} "
            f"apart, beyond the {known:,} tokens the model was trained on: it will meet distances new to it",
            calls=2,
        )


def _warn(message: str, calls: int) -> None:
    """Warns at the line of the user's that is as many ``calls`` of the model's methods away."""
    warnings.warn(message, DcaWarning, stacklevel=3 + calls)
