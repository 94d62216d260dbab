"""Ways to run a model's attention that experiments compare."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dca_export.errors import InputError
from dca_export.evaluate import running
from dca_export.reference import borders
from dca_export.scheme import Scheme
from dca_runtime import options

if TYPE_CHECKING:
    from dca_runtime import Model, Session

# An experiment says what it compares.
ATTENTIONS = [*(name for name in options.ATTENTIONS if name != "auto"), *borders.RULES]
ROPES = list(options.ROPES)


@dataclass(frozen=True)
class Method:
    """An attention, and the scheme and RoPE scaling to use instead of the file's own."""

    attention: str  # one of ATTENTIONS
    scheme: Scheme | None = None
    rope: str | None = None  # "linear:F", "ntk:F", "yarn:F" or "dynamic:F", as ``Model.session`` takes it
    border: borders.Border | None = None  # of the attentions in borders.RULES
    prefill: str | None = None  # as ``Model.session`` takes it; None: dense
    cache: str | None = None  # of options.CACHE_TYPES; None: the experiment's

    @property
    def name(self) -> str:
        """As ``parse`` reads it: "plain", "dca", "dca:3072/1024/4096", "plain@yarn:4", "string:680/128"."""
        rope = (f"@{self.rope}" if self.rope else "") + running.suffix(self.prefill, self.cache)
        if self.border is not None:
            return borders.name(self.border) + rope
        if self.scheme is None:
            return self.attention + rope
        s = self.scheme
        scale = f"/{s.logit_scale:g}/{s.logit_scale_length}" if s.logit_scale else ""
        return f"{self.attention}:{s.chunk_size}/{s.local_window}/{s.pretraining_length}{scale}{rope}"

    @property
    def has_scheme(self) -> bool:
        """Whether it runs on a scheme, its own or the file's."""
        return self.attention != "plain" and self.border is None

    @property
    def by_length(self) -> bool:
        """Whether what it gives a token depends on how long the text after it is."""
        return self.rope is not None and self.rope.startswith("dynamic")

    @property
    def only_reference(self) -> bool:
        """Whether only the reference runs it."""
        return self.border is not None and self.attention not in options.BORDERS

    def label(self, own: Sequence[float] | None) -> str:
        """The name for people, with the numbers of the scheme also where they are the file's own ("dca" and
        ``own`` = (s, w, c, …), None: it has none): "dca 3072/1024/4096"."""
        if not self.has_scheme or self.scheme is not None or own is None:
            return self.name
        s, w, c, *scale = own
        a, n = scale or (0.0, 0)
        return dataclasses.replace(self, scheme=Scheme(int(s), int(w), int(c), float(a), int(n))).name

    @property
    def options(self) -> dict[str, Any]:
        """For ``Model.session``."""
        scheme = None if self.scheme is None else dataclasses.astuple(self.scheme)
        attention = self.attention if self.border is None else borders.name(self.border)
        run = {} if self.prefill is None else {"prefill": self.prefill}
        run |= {} if self.cache is None else {"cache_type": self.cache}
        return {"attention": attention, "scheme": scheme, "rope": self.rope} | run

    def session(self, model: "Model", **options: Any) -> "Session":
        """A session that runs this method; ``options`` are further ones of ``Model.session``."""
        return model.session(**(options | self.options))


def parse(text: str) -> Method:
    """Reads ``ATTENTION[:S/W/C[/A/N]][@ROPE:F][@PREFILL][@CACHE]``: scheme, logit scale and its length, RoPE
    scaling, "sparse:0.1", "q4"; or "RULE:NUMBERS" with the same behind it, a rule of borders.RULES.

    Raises InputError.
    """
    named, prefill, cache = running.split(text)
    if named != text:
        return dataclasses.replace(parse(named), prefill=prefill, cache=cache)
    rest, at, rope = text.partition("@")
    if at:
        kind, _, factor = rope.partition(":")
        if kind not in ROPES or not _is_factor(factor):
            expected = f"one of {', '.join(ROPES)} with a factor of at least 1"
            raise InputError(f"{text!r}: expected {expected} after the @, as in plain@yarn:4")
        return dataclasses.replace(parse(rest), rope=rope)
    attention, colon, numbers = text.partition(":")
    if attention not in ATTENTIONS:
        raise InputError(f"attention {attention!r} is none of {', '.join(ATTENTIONS)}")
    if attention in borders.RULES:
        try:
            return Method(attention, border=borders.named(text))
        except ValueError as error:
            raise InputError(f"{text!r}: {error}") from error
    if not colon:
        return Method(attention)
    if attention == "plain":
        raise InputError(f"{text!r}: plain attention has no scheme")
    parts = numbers.split("/")
    if len(parts) not in (3, 5):
        raise InputError(f"{text!r}: expected CHUNK/WINDOW/LENGTH after the colon, as in dca:3072/1024/4096")
    try:
        scale = (float(parts[3]), int(parts[4])) if len(parts) == 5 else ()
        return Method(attention, Scheme(*map(int, parts[:3]), *scale))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{text!r}: expected numbers after the colon, as in dca:3072/1024/4096") from error


def shares_prefill(first: Method, second: Method) -> bool:
    """Whether the keys and values of both agree where every attention is the ordinary one: same RoPE, same
    cache."""
    return first.rope == second.rope and first.cache == second.cache


def pairs(methods: Sequence[Method]) -> list[list[Method]]:
    """Neighbours that can share prefill two by two, the others alone; the order is kept."""
    groups: list[list[Method]] = []
    for method in methods:
        if groups and len(groups[-1]) == 1 and shares_prefill(groups[-1][0], method):
            groups[-1].append(method)
        else:
            groups.append([method])
    return groups


def _is_factor(text: str) -> bool:
    try:
        return 1 <= float(text) < float("inf")
    except ValueError:
        return False


def check(methods: list[Method], model: "Model", reference: bool = False) -> None:
    """Raises InputError for a method that the engine lacks, or whose scheme is named nowhere."""
    for method in methods:
        if method.only_reference and not reference:
            raise InputError(f"{method.name}: runs on the reference alone so far; give --engine reference")
        if reference and (method.prefill is not None or method.cache is not None):
            raise InputError(
                f"{method.name}: prefill and cache are the library's; leave --engine reference out"
            )
        if method.has_scheme and method.scheme is None and model.scheme is None:
            raise InputError(
                f"{model.path}: has no scheme for attention {method.attention}; name one, as in "
                f"{method.attention}:3072/1024/4096, or write it into the file with dca-export"
            )
