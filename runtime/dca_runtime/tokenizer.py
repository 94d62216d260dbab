"""Text to token ids and back, with the tokenizer that a GGUF file carries."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from dca_runtime.errors import DcaError, Status
from dca_runtime.options import TokenIds
from dca_runtime.vocabulary import MODEL_KEY, build_tokenizer, byte_level_pretokenizer

HUGGINGFACE_KEY = "tokenizer.huggingface.json"

# Texts that end a turn or a text in the models in use. Files name one end token, often not the one that
# ends a turn; a token with such a text ends generation too.
_END_TEXTS = frozenset(
    {
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
        "[EOS]",
        "[EOT]",
        "<EOT>",
        "</s>",
    }
)


class Tokenizer:
    """Encodes and decodes; knows the special tokens and which of them end a text."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Reads tokenizer.huggingface.json, or else builds on tokenizer.ggml.*. Raises DcaError."""
        self._metadata = metadata
        serialized = metadata.get(HUGGINGFACE_KEY)
        if serialized is not None:
            self._backend = _from_json(serialized)
        elif MODEL_KEY in metadata:
            self._backend = build_tokenizer(metadata)
        else:
            raise DcaError(
                f"the file has no tokenizer (neither {HUGGINGFACE_KEY} nor {MODEL_KEY})", Status.UNSUPPORTED
            )
        self._backend.no_padding()
        self._backend.no_truncation()
        self.bos_id = self._special_id("bos")
        self.eos_id = self._special_id("eos")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``.

        add_special: put the beginning- and end-of-text tokens around it that the model was trained with
            (tokenizer.ggml.add_bos_token, add_eos_token; without these keys what the tokenizer's own
            file says).
        parse_special: text that spells a control token, such as "<|im_end|>", becomes that token;
            otherwise it stays ordinary text, as is right for text that is not trusted.
        """
        backend = self._backend if parse_special else self._without_specials
        return self._encode(backend, text, add_special)

    def decode(self, ids: TokenIds, skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD. Ids without a token give nothing."""
        return self._backend.decode([int(id_) for id_ in ids], skip_special_tokens=skip_special)

    def stream(self, after: TokenIds = (), skip_special: bool = True) -> "TextStream":
        """Decodes ids that come one by one after the ids ``after``; see TextStream."""
        return TextStream(self, after, skip_special)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids after which a text or a turn is over."""
        named = {self._special_id(name) for name in ("eos", "eot", "eom")}
        special = self._backend.get_added_tokens_decoder()
        spelled = {id_ for id_, token in special.items() if token.special and token.content in _END_TEXTS}
        return frozenset(spelled | {id_ for id_ in named if id_ is not None})

    @cached_property
    def special_texts(self) -> dict[str, str]:
        """bos_token, eos_token, … as chat templates call them; only those that the file names."""
        names = ("bos", "eos", "unknown", "padding")
        ids = {name: self._special_id(name) for name in names}
        keys = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        texts = {keys[name]: self._backend.id_to_token(id_) for name, id_ in ids.items() if id_ is not None}
        return {key: text for key, text in texts.items() if text is not None}

    def _encode(self, backend: Backend, text: str, add_special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DcaError(f"the text is not valid Unicode: {error.reason} at index {error.start}") from error
        add_bos, add_eos = self._adds
        ids = backend.encode(text, add_special_tokens=add_special and add_bos is None).ids
        if add_special and add_bos and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        if add_special and add_eos and self.eos_id is not None:
            ids = [*ids, self.eos_id]
        return ids

    @cached_property
    def _adds(self) -> tuple[bool | None, bool]:
        """Whether to add the beginning and the end of text; (None, False) leaves it to tokenizer.json."""
        add_bos = self._metadata.get("tokenizer.ggml.add_bos_token")
        add_eos = self._metadata.get("tokenizer.ggml.add_eos_token", False)
        if add_bos is None and HUGGINGFACE_KEY not in self._metadata:
            byte_level = self._metadata[MODEL_KEY] == "gpt2"
            add_bos = byte_level_pretokenizer(self._metadata).add_bos if byte_level else True
        return add_bos, add_eos

    @cached_property
    def _without_specials(self) -> Backend:
        backend = Backend.from_str(self._backend.to_str())
        backend.encode_special_tokens = True  # the package's name for: as ordinary text
        return backend

    def _special_id(self, name: str) -> int | None:
        id_ = self._metadata.get(f"tokenizer.ggml.{name}_token_id")
        return id_ if isinstance(id_, int) and self._backend.id_to_token(id_) is not None else None


class TextStream:
    """Turns ids into text as they come, never giving half a character.

    An id may end inside a UTF-8 sequence, and a decoder may treat the first id of a text differently
    (SentencePiece drops the leading space). So each step decodes the new ids after some that have been
    given out already, and gives what the text grew by.
    """

    _MOST_PENDING = 3  # ids: an unfinished UTF-8 sequence has at most 3 bytes, each an id of its own

    def __init__(self, tokenizer: Tokenizer, after: TokenIds, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._context = list(after[-1:])  # the last ids given out
        self._pending: list[int] = []

    def push(self, id_: int) -> str:
        """Takes one more id; the text that is certain now, often one word, sometimes nothing."""
        self._pending.append(id_)
        grown = self._grown(self._pending)
        if not grown.endswith("\ufffd"):
            return self._give(len(self._pending), grown)
        if len(self._pending) > self._MOST_PENDING:
            return self._give(1, self._grown(self._pending[:1]))
        return ""

    def flush(self) -> str:
        """What is left at the end; an unfinished character shows as U+FFFD."""
        return self._give(len(self._pending), self._grown(self._pending))

    def _grown(self, ids: list[int]) -> str:
        before = self._tokenizer.decode(self._context, self._skip_special)
        return self._tokenizer.decode(self._context + ids, self._skip_special)[len(before) :]

    def _give(self, count: int, text: str) -> str:
        given, self._pending = self._pending[:count], self._pending[count:]
        if text:
            self._context = given
        else:  # ids that show nothing, such as skipped control tokens, make no context
            self._context += given
        return text


def _from_json(serialized: Any) -> Backend:
    if not isinstance(serialized, str):
        raise DcaError(f"{HUGGINGFACE_KEY} must be a string", Status.FORMAT)
    try:
        return Backend.from_str(serialized)
    except Exception as error:  # the package raises bare Exception
        raise DcaError(f"{HUGGINGFACE_KEY} is not a tokenizer ({error})", Status.FORMAT) from error
