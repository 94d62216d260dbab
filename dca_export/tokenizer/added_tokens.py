"""Tokens added to a tokenizer's own: all that the files of a directory list, put into tokenizer.json.

tokenizer.json has a list of its own; added_tokens_decoder of tokenizer_config.json, added_tokens.json of
older directories and the names of special tokens may add to it, as in transformers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer

from dca_export.config import read_json_object
from dca_export.errors import InputError
from dca_export.small_files import is_there
from dca_export.tokenizer.settings import NAMES, Settings, is_unicode
from dca_runtime.text.tokenizer_json import MAX_TOKEN_CHARACTERS
from dca_runtime.text.unigram import NO_TEXT

_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


@dataclass(frozen=True)
class AddedToken:
    """An entry of added_tokens; if the vocabulary has an id for its text, that is its id."""

    id: int
    content: str
    special: bool
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def merge_added_tokens(parsed: dict[str, Any], settings: Settings, vocab_size: int) -> list[str]:
    """Completes `parsed`, a tokenizer.json, in place; notes on what could not be added.

    Ids are those that the files state; a token of the vocabulary that another file renames is renamed.
    Raises InputError.
    """
    own = parsed.setdefault("added_tokens", None) or []
    parsed["added_tokens"] = own
    merged = _Merged(parsed, own, vocab_size)
    for token in _stated(settings, own):
        merged.add(token)
    for name in NAMES:
        if (text := settings.name(name).text) is not None:
            merged.add_named(f"{name}_token", text, settings.name(name).stated)
    for text in settings.further_special_texts():
        if text not in merged.entries:
            merged.add_named("additional special token", text)
    own.sort(key=lambda entry: entry["id"])
    return merged.notes


def place_by_id(parsed: dict[str, Any], built: Tokenizer) -> bool:
    """Puts added tokens whose ids the package would not keep into the vocabulary; whether there were any.

    The package gives an added token that the vocabulary lacks the next free id, whatever the file says.
    """
    moved = [entry for entry in parsed["added_tokens"] if built.token_to_id(entry["content"]) != entry["id"]]
    vocab = parsed["model"]["vocab"]
    for entry in moved:
        if isinstance(vocab, list):  # a unigram model's, by id
            vocab += [[f"{NO_TEXT}{id_}", 0.0] for id_ in range(len(vocab), entry["id"] + 1)]
            vocab[entry["id"]][0] = entry["content"]
        else:
            vocab[entry["content"]] = entry["id"]
    return bool(moved)


class _Merged:
    """tokenizer.json while tokens are put into it."""

    def __init__(self, parsed: dict[str, Any], own: list[dict[str, Any]], vocab_size: int) -> None:
        vocab = parsed["model"]["vocab"]
        self._pieces: list[list[Any]] = vocab if isinstance(vocab, list) else []  # a unigram model's, by id
        first = {text: id_ for id_, (text, _) in reversed(list(enumerate(self._pieces)))}
        self.vocab: dict[str, int] = first if isinstance(vocab, list) else vocab
        self.own = own
        self.entries = {entry["content"]: entry for entry in own}
        self.notes: list[str] = []
        self._size = vocab_size
        self._texts = {id_: text for text, id_ in self.vocab.items()}
        self._texts |= {entry["id"]: entry["content"] for entry in own}

    def add_named(self, name: str, text: str, may_be_new: bool = True) -> None:
        """A token that a file calls `name` is special, whatever its entry says."""
        if text in self.entries:
            self.entries[text]["special"] = True
        elif (id_ := self.vocab.get(text)) is not None:
            self.add(AddedToken(id_, text, special=True))
        elif may_be_new:
            if (id_ := max(self._texts, default=-1) + 1) < self._size:
                self.add(AddedToken(id_, text, special=True))
            else:
                self.notes.append(f"{name} {text!r} is no token of this model: left out")

    def add(self, token: AddedToken) -> None:
        """Adds a token, or gives one that is there its flags."""
        if token.content in self.entries:
            self.entries[token.content].update({flag: getattr(token, flag) for flag in _FLAGS})
            return
        id_ = self.vocab.get(token.content, token.id)
        if id_ >= self._size:
            self.notes.append(f"token {token.content!r} is beyond the model's {self._size} ids: left out")
            return
        if (there := self._texts.get(id_)) is not None and there != token.content:
            self._drop(there)
        entry = asdict(token) | {"id": id_}
        self.own.append(entry)
        self.entries[token.content] = entry
        self._texts[id_] = token.content

    def _drop(self, text: str) -> None:
        """Removes a placeholder whose id now has another text."""
        id_ = self.vocab.pop(text, None)
        if self._pieces and id_ is not None:
            self._pieces[id_][0] = f"{NO_TEXT}{id_}"
        if (entry := self.entries.pop(text, None)) is not None:
            self.own.remove(entry)


def _stated(settings: Settings, own: list[dict[str, Any]]) -> list[AddedToken]:
    decoder = settings.tokenizer.get("added_tokens_decoder")
    path = settings.directory / "tokenizer_config.json"
    if decoder is not None:
        if not isinstance(decoder, dict):
            raise InputError(f"{path}: added_tokens_decoder must be an object")
        tokens = []
        for key, token in decoder.items():
            if not isinstance(token, dict) or not isinstance(token.get("content"), str):
                raise InputError(f"{path}: added_tokens_decoder: {key[:40]} has no content")
            # A file that does not say it means what the package means: special tokens are not normalised.
            flags = {flag: bool(token.get(flag)) for flag in _FLAGS}
            flags["normalized"] = bool(token.get("normalized", not flags["special"]))
            tokens.append(AddedToken(_id(path, key), _text(path, token["content"]), **flags))
        return sorted(tokens, key=lambda token: token.id)
    path = settings.directory / "added_tokens.json"
    if not is_there(path):
        return []
    named = {settings.name(name).text for name in NAMES} | set(settings.further_special_texts())
    known = {entry["content"] for entry in own}
    tokens = [
        AddedToken(_id(path, id_), _text(path, text), text in named, normalized=text not in named)
        for text, id_ in read_json_object(path).items()
        if text not in known
    ]
    return sorted(tokens, key=lambda token: token.id)


def _id(path: Any, id_: Any) -> int:
    text = str(id_) if isinstance(id_, int | str) and not isinstance(id_, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{path}: token id {str(id_)[:40]!r} must be an integer, 0 or more")
    return int(text)


def _text(path: Any, text: str) -> str:
    if not is_unicode(text) or len(text) > MAX_TOKEN_CHARACTERS:
        raise InputError(
            f"{path}: added tokens must be valid Unicode, at most {MAX_TOKEN_CHARACTERS} characters each"
        )
    return text
