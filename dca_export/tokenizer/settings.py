"""What the small files beside a tokenizer say: names of special tokens, ids that end a text, chat templates.

tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and the template files,
each optional, with the precedence that transformers gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dca_export.config import read_json_object
from dca_export.errors import InputError
from dca_export.small_files import is_there, read_text

_MODEL = "tokenizer.model"
_CONFIG, _MAP = "tokenizer_config.json", "special_tokens_map.json"

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

# What classes of transformers take for names that no file states.
_CLASS_NAMES = {
    "LlamaTokenizer": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "Qwen2Tokenizer": {"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"},
    "GPT2Tokenizer": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
}


@dataclass(frozen=True)
class Name:
    """A special token's text; `stated` and no text: a file says that there is none."""

    text: str | None
    stated: bool


class Settings:
    """The files of one directory."""

    def __init__(self, directory: Path) -> None:
        """Raises InputError if a file is no JSON object."""
        self.directory = directory
        self.tokenizer = _object(directory / _CONFIG)
        self.model = _object(directory / "config.json")
        self._generation = _object(directory / "generation_config.json")
        # transformers reads it only for directories from before added_tokens_decoder, and then believes it.
        legacy = "added_tokens_decoder" not in self.tokenizer
        self._map = _object(directory / _MAP) if legacy else {}

    @property
    def tokenizer_class(self) -> str:
        """The class of transformers, "" where nothing states or implies one."""
        stated = self.tokenizer.get("tokenizer_class")
        if not isinstance(stated, str):
            kind = self.model.get("model_type")
            stated = "Qwen2Tokenizer" if isinstance(kind, str) and kind.startswith("qwen") else ""
            if not (self.directory / "tokenizer.json").exists() and (self.directory / _MODEL).exists():
                stated = "LlamaTokenizer"
        return stated.removesuffix("Fast")

    def name(self, name: str) -> Name:
        """The text of the token that is the model's bos, eos, …"""
        key = f"{name}_token"
        for values, file in (
            (self._map, _MAP),
            (self.tokenizer, _CONFIG),
        ):
            if key in values:
                value = values[key]
                return Name(None if value is None else self._text(value, file, key), stated=True)
        return Name(_CLASS_NAMES.get(self.tokenizer_class, {}).get(name), stated=False)

    def further_special_texts(self) -> list[str]:
        """Tokens that are special without being one of NAMES."""
        texts = []
        for values, file in (
            (self.tokenizer, _CONFIG),
            (self._map, _MAP),
        ):
            for key in ("additional_special_tokens", "extra_special_tokens"):
                listed = values.get(key) or []
                if not isinstance(listed, list | dict):
                    raise InputError(f"{self.directory / file}: {key} must be a list")
                entries = listed.values() if isinstance(listed, dict) else listed
                texts += [self._text(entry, file, key) for entry in entries]
        return texts

    def model_id(self, name: str, vocab_size: int) -> int | None:
        """The first id that generation_config.json or config.json gives for a name."""
        return next(iter(self._ids(name, vocab_size)), None)

    def end_ids(self, vocab_size: int) -> list[int]:
        """Every id of these two files that ends a text, in their order."""
        return list(self._ids("eos", vocab_size))

    def flag(self, key: str) -> bool | None:
        """A flag of tokenizer_config.json, None where it is not stated. InputError: it is none."""
        value = self.tokenizer.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(
                f"{self.directory / _CONFIG}: {key} must be true or false, found {str(value)[:40]!r}"
            )
        return value

    def chat_template(self) -> str | list[dict[str, str]] | None:
        """The default template, or all with their names. Files of their own come first."""
        own = self.directory / "chat_template.jinja"
        named = {path.stem: path for path in sorted(self.directory.glob("additional_chat_templates/*.jinja"))}
        if is_there(own):
            named = {"default": own} | named
        if named:
            texts = {name: read_text(path) for name, path in named.items()}
            if list(texts) == ["default"]:
                return texts["default"]
            return [{"name": name, "template": text} for name, text in texts.items()]
        stated = self.tokenizer.get("chat_template")
        if stated is None:
            stated = _object(self.directory / "chat_template.json").get("chat_template")
        return self._checked_template(stated)

    def _checked_template(self, stated: Any) -> str | list[dict[str, str]] | None:
        if isinstance(stated, dict):
            stated = [{"name": name, "template": text} for name, text in stated.items()]
        entries = stated if isinstance(stated, list) else []
        texts: list[Any] = [stated] if isinstance(stated, str) else []
        for entry in entries:
            entry = entry if isinstance(entry, dict) else {}
            texts += [entry.get("name"), entry.get("template")]
        if not all(isinstance(text, str) and is_unicode(text) for text in texts) or (
            stated is not None and not texts and entries != stated
        ):
            raise InputError(
                f"{self.directory}: chat_template must be a string or a list of named strings, valid Unicode"
            )
        return stated or None

    def _ids(self, name: str, vocab_size: int) -> Iterator[int]:
        for values, file in ((self._generation, "generation_config.json"), (self.model, "config.json")):
            stated = values.get(f"{name}_token_id")
            for id_ in stated if isinstance(stated, list) else [stated]:
                if id_ is None:
                    continue
                if isinstance(id_, bool) or not isinstance(id_, int):
                    raise InputError(
                        f"{self.directory / file}: {name}_token_id holds {str(id_)[:40]!r}, ids are integers"
                    )
                if 0 <= id_ < vocab_size:  # some write -1 for "none", or an id of a larger vocabulary
                    yield id_

    def _text(self, value: Any, file: str, key: str) -> str:
        """A token stands as its text or as an object that holds it."""
        text = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(text, str) or not is_unicode(text):
            raise InputError(
                f"{self.directory / file}: {key} must be a token's text, found {str(value)[:40]!r}"
            )
        return text


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _object(path: Path) -> dict[str, Any]:
    return read_json_object(path) if is_there(path) else {}
