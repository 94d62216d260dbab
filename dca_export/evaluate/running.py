"""The parts of a method's name that say how it runs: prefill and cache, as in "dca@sparse:0.1@q4"."""

from typing import TYPE_CHECKING, Any

from dca_export.errors import InputError
from dca_runtime.options import CACHE_TYPES, PREFILLS

if TYPE_CHECKING:
    from dca_runtime import Session


def split(text: str) -> tuple[str, str | None, str | None]:
    """("dca@yarn:4", "sparse:0.1", "q4") of "dca@yarn:4@sparse:0.1@q4"; None: not said. Raises InputError."""
    rest: list[str] = []
    prefill = cache = None
    for part in text.split("@"):
        kind = part.split(":")[0]
        if rest and kind in PREFILLS:
            if prefill is not None:
                raise InputError(f"{text!r}: names two ways to prefill, {prefill} and {part}")
            prefill = _prefill(part, text)
        elif rest and part in CACHE_TYPES:
            if cache is not None:
                raise InputError(f"{text!r}: names two types of cache, {cache} and {part}")
            cache = part
        else:
            rest.append(part)
    return "@".join(rest), prefill, cache


def suffix(prefill: str | None, cache: str | None) -> str:
    """As ``split`` reads it."""
    return "".join(f"@{part}" for part in (prefill, cache) if part is not None)


def density(session: "Session") -> dict[str, Any]:
    """{"density": shares by layer and query head}, as SessionInfo has them; empty where prefill is dense."""
    found = getattr(session.info, "density", None)  # the reference's has none
    return {} if found is None else {"density": [list(layer) for layer in found]}


def _prefill(part: str, text: str) -> str:
    from dca_runtime.errors import DcaError
    from dca_runtime.prefill import parse

    try:
        return parse(part).name
    except DcaError as error:
        raise InputError(f"{text!r}: {error}") from error
