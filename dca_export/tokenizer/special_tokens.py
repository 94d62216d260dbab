"""Ids of bos, eos, … and of all tokens that end a text, and what encoding puts around a text."""

from __future__ import annotations

from dataclasses import dataclass, field

from dca_export.tokenizer.effective import Effective
from dca_export.tokenizer.settings import NAMES, Settings
from dca_export.tokenizer.slow_files import template_around

_SAMPLES = ("a", "the", "1", "")  # texts to see what is put around them


@dataclass
class SpecialTokens:
    """`ids` by name; `ends`, eos first; `adds`: "bos", "eos", absent where it is left to tokenizer.json."""

    ids: dict[str, int]
    ends: list[int]
    adds: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_special_tokens(effective: Effective, settings: Settings, vocab_size: int) -> SpecialTokens:
    """What the files state, resolved by the tokenizer. Raises InputError.

    A name that is null has no id; where a name is not stated at all, generation_config.json and config.json
    may have one. An eos is needed by engines that end at nothing else: the first end of a text is taken.
    """
    ids = {}
    for name in NAMES:
        named = settings.name(name)
        id_ = None if named.text is None else effective.id_of(named.text)
        if (id_ is None or id_ >= vocab_size) and (named.text is not None or not named.stated):
            id_ = settings.model_id(name, vocab_size)
        if id_ is not None and id_ < vocab_size:
            ids[name] = id_
    ends = settings.end_ids(vocab_size)
    if "eos" not in ids and ends:
        ids["eos"] = ends[0]
    ends = list(dict.fromkeys([ids["eos"], *ends])) if "eos" in ids else []
    special = SpecialTokens(ids, ends)
    if not effective.from_json:
        _put_around(effective, settings, special)
    _find_around(effective, settings, special, vocab_size)
    return special


def _put_around(effective: Effective, settings: Settings, special: SpecialTokens) -> None:
    """Gives a tokenizer that was made here the post-processor that tokenizer_config.json asks for."""
    defaults = {"bos": not effective.is_byte_level or effective.source.name == "tekken.json", "eos": False}
    around: dict[str, tuple[str, int] | None] = {}
    for name, default in defaults.items():
        wanted = settings.flag(f"add_{name}_token")
        id_ = special.ids.get(name) if (default if wanted is None else wanted) else None
        text = None if id_ is None else effective.text_of(id_)
        around[name] = None if id_ is None or text is None else (text, id_)
    effective.rebuild(post_processor=template_around(around["bos"], around["eos"]))


def _find_around(effective: Effective, settings: Settings, special: SpecialTokens, vocab_size: int) -> None:
    before, after = _around(effective)
    bos_is_open = "bos" not in special.ids or not settings.name("bos").stated
    null_bos = settings.name("bos").stated and settings.name("bos").text is None
    if len(before) == 1 and bos_is_open and not null_bos and before[0] < vocab_size:
        special.ids["bos"] = before[0]
    named = {"bos": special.ids.get("bos"), "eos": special.ids.get("eos")}
    if all(ids in ([], [named[name]]) for name, ids in (("bos", before), ("eos", after))):
        special.adds = {"bos": bool(before), "eos": bool(after)}
    else:
        texts = [effective.text_of(id_) for id_ in [*before, *after]]
        special.notes.append(
            f"tokenizer.json puts {' '.join(map(str, texts))} around a text, which is more than a bos and an "
            "eos: dca-run does so too, other engines cannot be told"
        )
    for name, found in special.adds.items():
        wanted = settings.flag(f"add_{name}_token")
        if effective.from_json and wanted is not None and wanted != found:
            does = "adds" if found else "does not add"
            special.notes.append(
                f"tokenizer.json {does} the {name} token, add_{name}_token in tokenizer_config.json says "
                "otherwise: the former counts, as in transformers"
            )


def _around(effective: Effective) -> tuple[list[int], list[int]]:
    """Ids before and after a text: what encoding with special tokens adds to encoding without."""
    for sample in _SAMPLES:
        bare = effective.encode(sample, special=False)
        if bare:
            break
    whole = effective.encode(sample, special=True)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare and (bare or start == len(whole)):
            return whole[:start], whole[start + len(bare) :]
    return whole, []
