"""The tokenizer that a directory's files make together, as one tokenizer.json.

Embedded in the GGUF file it is what the runtime uses, and the keys for other engines follow from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dca_export.errors import InputError
from dca_export.small_files import is_there, read_text
from dca_export.tokenizer.added_tokens import merge_added_tokens, place_by_id
from dca_export.tokenizer.agreement import (
    Cut,
    Encode,
    by_likelihood,
    by_ranks,
    by_scores,
    check_agreement,
    pieces_of,
)
from dca_export.tokenizer.rank_files import is_tiktoken, read_tekken, read_tiktoken
from dca_export.tokenizer.sentencepiece_model import SentencePieceModel, read_sentencepiece
from dca_export.tokenizer.settings import Settings
from dca_export.tokenizer.slow_files import from_sentencepiece, from_vocab_and_merges
from dca_runtime.errors import DcaError
from dca_runtime.text.rust_guard import guarded
from dca_runtime.text.tokenizer_json import build_parsed, check_tokenizer, parse_tokenizer_json, steps_of


@dataclass
class Effective:
    """A tokenizer.json with everything merged in; `source` is the file it began with."""

    parsed: dict[str, Any]
    built: Tokenizer
    text: str
    source: Path
    pieces: SentencePieceModel | None = None  # where it began with tokenizer.model
    notes: list[str] = field(default_factory=list)

    @property
    def from_json(self) -> bool:
        """Whether there was a tokenizer.json, which then has the last word on what encoding adds."""
        return self.source.name == "tokenizer.json"

    @property
    def is_unigram(self) -> bool:
        """SentencePiece's unigram model, else a BPE."""
        return bool(self.parsed["model"].get("type") == "Unigram")

    @property
    def is_byte_level(self) -> bool:
        """Byte-level BPE, else SentencePiece's."""
        kinds = {step.get("type") for part in ("pre_tokenizer", "decoder") for step in self.steps(part)}
        return "ByteLevel" in kinds

    def steps(self, part: str) -> list[Any]:
        """The steps of a component, sequences flattened."""
        return list(steps_of(self.parsed.get(part)))

    def encode(self, text: str, special: bool) -> list[int]:
        """Ids of a text, with what encoding adds or without. Raises DcaError."""
        with guarded(f"{self.source}: it cannot tokenize"):
            return self.built.encode(text, add_special_tokens=special).ids

    def id_of(self, text: str) -> int | None:
        """The id of a token, None if there is none."""
        with guarded(f"{self.source}: a token cannot be found"):
            return self.built.token_to_id(text)

    def text_of(self, id_: int) -> str | None:
        """The text of a token, None if there is none."""
        with guarded(f"{self.source}: token {id_} cannot be read"):
            return self.built.id_to_token(id_)

    def rebuild(self, **parts: Any) -> None:
        """Replaces components. Raises InputError."""
        self.parsed |= parts
        with input_errors():
            self.built = build_parsed(self.parsed, str(self.source))
        self.text = json.dumps(self.parsed, ensure_ascii=False)


def read_effective(settings: Settings, vocab_size: int) -> Effective:
    """The tokenizer in `settings.directory`, for a model with `vocab_size` embeddings. Raises InputError."""
    directory = settings.directory
    for name, read in _READERS.items():
        if is_there(directory / name):
            return _completed(read(directory / name, settings), settings, vocab_size)
    if files := sorted(directory.glob("*.tiktoken")):
        return _completed(_from_tiktoken(files[0], settings), settings, vocab_size)
    raise InputError(
        f"{directory}: no tokenizer (tokenizer.json or tokenizer.model, or vocab.json and merges.txt, or "
        "tekken.json or a .tiktoken file)"
    )


def _completed(read: _Read, settings: Settings, vocab_size: int) -> Effective:
    parsed, path = read.parsed, read.path
    before = None if read.text is None else json.dumps(parsed)
    with input_errors():
        check_tokenizer(parsed, str(path))
        notes = read.notes + merge_added_tokens(parsed, settings, vocab_size)
        parsed["padding"] = parsed["truncation"] = None  # of training; a prompt must not be changed by them
        check_tokenizer(parsed, str(path))
        built = build_parsed(parsed, str(path))
        if place_by_id(parsed, built):
            built = build_parsed(parsed, str(path))
    if read.source is not None:
        _check(read, parsed, built)
    unchanged = before is not None and before == json.dumps(parsed)
    text = read.text if unchanged and read.text is not None else json.dumps(parsed, ensure_ascii=False)
    return Effective(parsed, built, text, path, read.pieces, notes)


def _check(read: _Read, parsed: dict[str, Any], built: Tokenizer) -> None:
    """Raises InputError if what is to be embedded gives other ids than the source's own way of encoding."""
    assert read.source is not None
    whole = [entry["content"] for entry in parsed["added_tokens"] if entry["content"]]
    pieces = pieces_of(built, whole, str(read.path))

    def embedded(text: str) -> list[int]:
        with guarded(f"{read.path}: it cannot tokenize"):
            return built.encode(text, add_special_tokens=False).ids

    with input_errors():
        source = read.source(lambda text: pieces(text) or [])
        check_agreement(embedded, source, lambda text: pieces(text) is None, str(read.path))


@dataclass(frozen=True)
class _Read:
    parsed: dict[str, Any]
    path: Path
    source: Callable[[Cut], Encode] | None = None  # another way from pieces of text to ids
    text: str | None = None  # as it stands in the file
    pieces: SentencePieceModel | None = None
    notes: list[str] = field(default_factory=list)


def _from_json(path: Path, settings: Settings) -> _Read:
    text = read_text(path)
    with input_errors():
        parsed = parse_tokenizer_json(text, str(path))
    parsed.setdefault("padding", None)
    parsed.setdefault("truncation", None)
    before = build_parsed(parsed, str(path))

    def source(pieces: Cut) -> Encode:
        return lambda text: before.encode(text, add_special_tokens=False).ids

    return _Read(parsed, path, source, text)


def _from_model(path: Path, settings: Settings) -> _Read:
    if is_tiktoken(path):
        return _from_tiktoken(path, settings)
    model = read_sentencepiece(path)
    encode = by_scores if model.is_bpe else by_likelihood
    return _Read(from_sentencepiece(model, settings, path), path, partial(encode, model), pieces=model)


def _from_tiktoken(path: Path, settings: Settings) -> _Read:
    parsed, ranks = read_tiktoken(path, settings)
    return _Read(parsed, path, partial(by_ranks, ranks))


def _from_tekken(path: Path, settings: Settings) -> _Read:
    parsed, ranks = read_tekken(path)
    return _Read(parsed, path, partial(by_ranks, ranks))


def _from_merges(path: Path, settings: Settings) -> _Read:
    if not is_there(settings.directory / "vocab.json"):
        raise InputError(f"{path}: there is no vocab.json beside it")
    parsed, notes = from_vocab_and_merges(settings)
    return _Read(parsed, settings.directory / "vocab.json", notes=notes)


_READERS: dict[str, Callable[[Path, Settings], _Read]] = {
    "tokenizer.json": _from_json,
    "tokenizer.model": _from_model,
    "spiece.model": _from_model,
    "tekken.json": _from_tekken,
    "merges.txt": _from_merges,
}


@contextmanager
def input_errors() -> Iterator[None]:
    """What the runtime refuses is the user's input here."""
    try:
        yield
    except DcaError as error:
        raise InputError(str(error)) from None
