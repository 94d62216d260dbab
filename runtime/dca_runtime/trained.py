"""Warns of lengths that the model was not trained on."""

import warnings
from typing import TYPE_CHECKING

from dca_runtime.errors import DcaWarning

if TYPE_CHECKING:
    from dca_runtime.model import Model
    from dca_runtime.session import Session


def reach(model: "Model", rope: str | None = None) -> int:
    """Tokens up to which distances mean something to the model: trained, or stretched by RoPE scaling.

    rope: a scaling in place of the file's, as ``Model.session`` takes it.
    """
    trained = model.info.context_length
    if rope is not None:
        return int(trained * float(rope.partition(":")[2]))
    prefix = f"{model.info.architecture}.rope.scaling."
    factor = model.metadata.get(prefix + "factor")
    if model.metadata.get(prefix + "type", "none") == "none" or not isinstance(factor, float):
        return trained
    original = model.metadata.get(prefix + "original_context_length", trained)
    return max(trained, int(original * factor))


def warn_of_scheme(model: "Model", session: "Session") -> None:
    """Warns where the session's scheme has distances beyond what the model knows."""
    scheme, known = session.info.scheme, reach(model, session.rope)
    if scheme is not None and scheme.pretraining_length > known > 0:
        warnings.warn(
            f"the scheme's pretraining_length {scheme.pretraining_length:,} is above the {known:,} tokens "
            "the model was trained on, and no RoPE scaling explains it: it will meet distances new to it",
            DcaWarning,
            stacklevel=3,
        )


def warn_if_untrained(model: "Model", session: "Session", tokens: int) -> None:
    """Warns where a prompt of that many ``tokens`` is beyond what the model knows under plain attention."""
    known = reach(model, session.rope)
    if session.info.scheme is not None or not tokens > known > 0:
        return
    cure = (
        "dca-export gives such a file a scheme that reaches further"
        if model.info.scheme is None
        else "leave the choice of attention to the file, which dca-export gave a scheme"
    )
    warnings.warn(
        f"the prompt has {tokens:,} tokens, plain attention is good to the {known:,} the model was trained "
        f"on: {cure}",
        DcaWarning,
        stacklevel=3,
    )
