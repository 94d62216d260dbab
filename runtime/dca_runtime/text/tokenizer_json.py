"""tokenizer.json, checked before the tokenizers package may build it.

The package trusts its files: sizes in them make it allocate until it aborts, ids and lengths make it panic,
patterns make it run for minutes. So only the components that models in use are made of pass, each with
values that it can take; what is refused names where it stands.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from tokenizers import Tokenizer

from dca_runtime.errors import DcaError, Status
from dca_runtime.text.character_map import character_map_problem
from dca_runtime.text.pretokenizers import linear_pattern
from dca_runtime.text.rust_guard import guarded, one_line

MAX_BYTES = 64 << 20  # the largest published ones have 35 MB; parsed, a file takes up to 40 times its size
MAX_TOKEN_CHARACTERS = 4096  # the longest tokens in use are lines of a few hundred signs
MAX_ID = 2**24 - 1  # the package keeps a list of all ids that have no token
MAX_ADDED_TOKENS, MAX_ADDED_CHARACTERS = 100_000, 2_000_000  # matched by one automaton: 1 s to build
MAX_STEPS = 64  # components in one part of the file
MAX_AROUND = 64  # tokens around a text
MAX_TEXT = 64  # characters of a string that a component inserts
MAX_GROWTH = 64  # by how much all replacements together may lengthen a text

_CHILDREN = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_KNOWN = {
    "normalizer": {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "Prepend", "Replace", "Precompiled"},
    "pre_tokenizer": {
        "ByteLevel",
        "Digits",
        "Metaspace",
        "Punctuation",
        "Split",
        "Whitespace",
        "WhitespaceSplit",
    },
    "post_processor": {"ByteLevel", "RobertaProcessing", "TemplateProcessing"},
    "decoder": {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"},
}
# A group that repeats without end and holds another repetition or a choice takes exponential time.
_REPEATED = re.compile(r"\)(?:[*+]|\{\d*,\})")
_ESCAPED = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def build_from_json(text: str, where: str) -> Tokenizer:
    """The tokenizer that ``text`` describes, without padding and truncation.

    Raises DcaError with ``where`` in front: it is no tokenizer, or not one that is safe to build.
    """
    parsed = parse_tokenizer_json(text, where)
    return build_parsed(parsed, where, text)


def build_parsed(parsed: Mapping[str, Any], where: str, text: str | None = None) -> Tokenizer:
    """The same for what ``parse_tokenizer_json`` gave; ``text`` saves writing it out again."""
    linear = _linear(parsed.get("pre_tokenizer"))
    if text is None or linear != parsed.get("pre_tokenizer"):
        text = json.dumps({**parsed, "pre_tokenizer": linear})
    with guarded(f"{where}: not a valid tokenizer"):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


def parse_tokenizer_json(text: str, where: str) -> dict[str, Any]:
    """``text`` as an object whose every component has been checked. Raises DcaError."""
    if len(text) > MAX_BYTES:
        raise DcaError(f"{where}: {len(text):,} characters, at most {MAX_BYTES:,} are read", Status.FORMAT)
    try:
        parsed = json.loads(text, object_pairs_hook=_object_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DcaError(f"{where}: not a valid tokenizer ({one_line(error)})", Status.FORMAT) from error
    check_tokenizer(parsed, where)
    return parsed


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice the package might take the other one than was checked."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def check_tokenizer(parsed: Any, where: str) -> None:
    """Refuses what the package must not be given. Raises DcaError."""
    try:
        _check(isinstance(parsed, dict), "not an object")
        _check_model(parsed.get("model"))
        _check_added_tokens(parsed.get("added_tokens"))
        growth = 1.0
        for part in _CHILDREN:
            steps = list(steps_of(parsed.get(part)))
            _check(len(steps) <= MAX_STEPS, f"{part} has {len(steps)} steps, at most {MAX_STEPS} are run")
            for step in steps:
                kind = step.get("type")
                _check(isinstance(kind, str) and kind in _KNOWN[part], f"{part} {kind!r} is not supported")
                growth *= _checked_growth(part, step)
        _check(growth <= MAX_GROWTH, "its replacements lengthen a text without bound")
    except _Refused as refused:
        raise DcaError(f"{where}: not a valid tokenizer ({one_line(refused)})", Status.FORMAT) from None


def steps_of(component: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer, post-processor or decoder, sequences flattened."""
    if component is None:
        return
    _check(isinstance(component, dict), "a component is no object")
    _check(depth < 8, "sequences are nested too deeply")
    if component.get("type") != "Sequence":
        yield component
        return
    for key in _CHILDREN.values():
        inner = component.get(key)
        _check(inner is None or isinstance(inner, list), f"{key} is no list")
        for step in inner or []:
            yield from steps_of(step, depth + 1)


class _Refused(Exception):
    """Says which rule is broken."""


def _check(fine: bool, rule: str) -> None:
    if not fine:
        raise _Refused(rule)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _check_text(value: Any, what: str, longest: int = MAX_TOKEN_CHARACTERS) -> None:
    _check(isinstance(value, str), f"{what} is no string")
    _check(len(value) <= longest, f"{what} has {len(value):,} characters, at most {longest:,} are supported")


def _check_model(model: Any) -> None:
    _check(isinstance(model, dict), "it has no model")
    kind = model.get("type") or ("BPE" if "merges" in model else "no BPE")
    if kind == "Unigram":
        return _check_unigram(model)
    _check(kind == "BPE", f"the model is {kind}, only BPE and Unigram are supported")
    vocab, merges = model.get("vocab"), model.get("merges")
    _check(isinstance(vocab, dict) and isinstance(merges, list), "model: vocab or merges is missing")
    for token, id_ in vocab.items():
        _check(_is_id(id_), f"model: the id {id_!r} of token {token[:40]!r} is out of range")
        _check(len(token) <= MAX_TOKEN_CHARACTERS, f"model: a token of {len(token):,} characters")
    unknown = model.get("unk_token")
    _check(
        unknown is None or (isinstance(unknown, str) and unknown in vocab),
        f"model: unk_token {unknown!r} is no token",
    )
    _check(not model.get("dropout"), "model: dropout makes ids random")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check(model.get(key) in (None, ""), f"model: {key} is not supported")


def _check_unigram(model: Mapping[str, Any]) -> None:
    vocab, unknown = model.get("vocab"), model.get("unk_id")
    _check(isinstance(vocab, list) and 0 < len(vocab) <= MAX_ID, "model: vocab is missing")
    for entry in vocab or []:
        _check(isinstance(entry, list) and len(entry) == 2, "model: an entry of vocab is no token and score")
        token, score = entry
        _check_text(token, "model: a token")
        numeric = isinstance(score, int | float) and not isinstance(score, bool)
        _check(numeric and math.isfinite(score), f"model: the score of token {token[:40]!r} is no number")
    _check(
        unknown is None or (_is_id(unknown) and unknown < len(vocab or [])),
        f"model: unk_id {unknown!r} is no token",
    )


def _check_added_tokens(added: Any) -> None:
    _check(added is None or isinstance(added, list), "added_tokens is no list")
    for token in added or []:
        _check(isinstance(token, dict), "added_tokens: an entry is no object")
        _check(_is_id(token.get("id")), f"added_tokens: the id {token.get('id')!r} is out of range")
        _check_text(token.get("content"), "added_tokens: a token")
    if problem := too_many_added([token["content"] for token in added or []]):
        raise _Refused(problem)


def too_many_added(texts: list[str]) -> str | None:
    """Which limit tokens break that are matched as a whole, None if none."""
    characters = sum(map(len, texts))
    if len(texts) <= MAX_ADDED_TOKENS and characters <= MAX_ADDED_CHARACTERS:
        return None
    return (
        f"{len(texts):,} added tokens of {characters:,} characters, at most {MAX_ADDED_TOKENS:,} "
        f"and {MAX_ADDED_CHARACTERS:,} are supported"
    )


def _checked_growth(part: str, step: Mapping[str, Any]) -> float:
    """Checks a step; by which factor it may lengthen a text."""
    kind = step["type"]
    if kind == "Precompiled":
        _check_character_map(step.get("precompiled_charsmap"))
    elif kind == "Prepend":
        _check_text(step.get("prepend"), f"{part}: prepend", MAX_TEXT)
    elif kind in ("Split", "Replace"):
        length = _checked_pattern(step.get("pattern"), part)
        if kind == "Replace":
            _check_text(step.get("content"), f"{part}: content", MAX_TEXT)
            return max(1.0, len(step["content"].encode("utf-8", "replace")) / length)
    elif kind == "Strip" and part == "decoder":
        _check(
            _is_id(step.get("start")) and step.get("stop") == 0, "decoder: Strip cuts more than a beginning"
        )
    elif kind == "RobertaProcessing":
        for name in ("sep", "cls"):
            pair = step.get(name)
            _check(
                isinstance(pair, list) and len(pair) == 2 and _is_id(pair[1]), f"{part}: {name} is no token"
            )
    elif kind == "TemplateProcessing":
        _check_template(step)
    return 1.0


def _check_template(step: Mapping[str, Any]) -> None:
    special = step.get("special_tokens")
    if not isinstance(special, dict):
        raise _Refused("post_processor: special_tokens is no object")
    for token in special.values():
        ids = token.get("ids") if isinstance(token, dict) else None
        fine = isinstance(ids, list) and len(ids) <= MAX_AROUND and all(map(_is_id, ids))
        _check(fine, "post_processor: a special token has no valid ids")
    for name, texts in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = step.get(name)
        if not isinstance(pieces, list) or len(pieces) > MAX_AROUND:
            raise _Refused(f"post_processor: {name} is no list, or one of more than {MAX_AROUND} pieces")
        found = [piece["Sequence"] for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        held = [sequence.get("id") for sequence in found if isinstance(sequence, dict)]
        _check(held == texts, f"post_processor: {name} must hold each text once")
        objects = [piece for piece in pieces if isinstance(piece, dict)]
        named = [piece["SpecialToken"] for piece in objects if "SpecialToken" in piece]
        known = all(isinstance(token, dict) and token.get("id") in list(special) for token in named)
        _check(known, f"post_processor: {name} holds a token that special_tokens lacks")


def _checked_pattern(pattern: Any, part: str) -> int:
    """Checks a pattern; the fewest bytes that are sure to be replaced by a match, at least 1."""
    _check(isinstance(pattern, dict) and len(pattern) == 1, f"{part}: a pattern is missing")
    if "String" in pattern:
        _check_text(pattern["String"], f"{part}: a pattern")
        _check(pattern["String"] != "", f"{part}: a pattern is empty")
        return len(pattern["String"].encode("utf-8", "replace"))
    _check_text(pattern.get("Regex"), f"{part}: a pattern")
    _check(pattern["Regex"] != "", f"{part}: a pattern is empty")
    _check(not explodes(pattern["Regex"]), f"{part}: a pattern may take exponential time")
    return 1


def explodes(pattern: str) -> bool:
    """Whether a group that repeats without end holds a repetition or a choice."""
    bare = _ESCAPED.sub("x", pattern)
    opened: list[int] = []
    for at, character in enumerate(bare):
        if character == "(":
            opened.append(at)
        elif character == ")" and opened:
            inside = bare[opened.pop() + 1 : at]
            inside = re.sub(r"^\?(?:[:=!>]|<[=!]|[a-z-]+:)", "", inside)
            if _REPEATED.match(bare, at) and re.search(r"[*+|?]|\{\d*,", inside):
                return True
    return False


def _check_character_map(encoded: Any) -> None:
    _check(isinstance(encoded, str), "normalizer: precompiled_charsmap is no string")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("normalizer: precompiled_charsmap is not base64") from None
    if problem := character_map_problem(data):
        raise _Refused(f"normalizer: precompiled_charsmap: {problem}")


def _linear(pre_tokenizer: Any) -> Any:
    """A copy with patterns of linear time in place of known ones of quadratic time."""
    copy = deepcopy(pre_tokenizer)
    for step in steps_of(copy):
        pattern = step.get("pattern")
        if step.get("type") == "Split" and isinstance(pattern, dict) and "Regex" in pattern:
            pattern["Regex"] = linear_pattern(pattern["Regex"])
    return copy
