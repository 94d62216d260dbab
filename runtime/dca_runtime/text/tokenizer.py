"""Text to token ids and back, with the tokenizer that a GGUF file carries."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models

from dca_runtime.errors import DcaError, Status
from dca_runtime.generation.prompt import Prompt, encode_marked
from dca_runtime.options import TokenIds
from dca_runtime.text.byte_stream import ByteStream
from dca_runtime.text.decoding import Decoder
from dca_runtime.text.rust_guard import guarded
from dca_runtime.text.stream import TextStream
from dca_runtime.text.tokenizer_json import build_from_json
from dca_runtime.text.unigram import without_special_pieces
from dca_runtime.text.vocabulary import MODEL_KEY, build_tokenizer, byte_level_pretokenizer

HUGGINGFACE_KEY = "tokenizer.huggingface.json"
MAX_ID = 2**31 - 1  # ids are int32 in libdca
# Characters, about a microsecond each. The package encodes one text under Python's lock, which other threads
# then wait for (a server's steps for 3 ms at each prompt of 1,024 tokens, for seconds where somebody sends a
# book), and a batch of texts, be it of one, beside them.
_LONG = 512
END_IDS_KEY = "tokenizer.end_token_ids"  # docs/format.md

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
        self._backend = _build(metadata)
        self.bos_id = self._special_id("bos")
        self.eos_id = self._special_id("eos")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``.

        add_special: put the beginning- and end-of-text tokens around it that the model was trained with
            (tokenizer.ggml.add_bos_token, add_eos_token; without these keys what the tokenizer's own
            file says).
        parse_special: text that spells a control token, such as "<|im_end|>", becomes that token;
            otherwise it stays ordinary text, as is right for text that is not trusted.

        What ``Model.apply_chat_template`` gives has what surrounds it and knows which control tokens are
        the template's own: nothing is put around it, and only those become tokens.
        """
        if isinstance(text, Prompt) and parse_special:
            if text.plain:
                return encode_marked(
                    text, self.special_spellings, lambda part, parse: self.encode(part, False, parse)
                )
            add_special = False
        backend = self._backend if parse_special else self._without_specials
        return self._encode(backend, text, add_special)

    def prompt_ids(self, text: str, begins: bool = True) -> list[int]:
        """Token ids of a text to go on from: with what begins a text, once, and nothing that ends one.

        begins: nothing comes before it; otherwise, and where the text itself spells out its beginning or is
            a rendered template, nothing is put in front.
        """
        plain = self.encode(text, add_special=False)
        if isinstance(text, Prompt) or not begins:
            return plain
        add_bos, _ = self._adds
        if add_bos is not None:  # the file says it; a long text is not encoded twice then
            begin = [self.bos_id] if add_bos and self.bos_id is not None else []
            return plain if plain[: len(begin)] == begin else begin + plain
        whole = self.encode(text)
        for before in range(len(whole) - len(plain) + 1):
            if whole[before : before + len(plain)] == plain:
                begin = whole[:before]
                break
        else:
            return whole  # the tokenizer does more than to put something around
        if not plain:  # all is around nothing: what ends a text cannot be told by its place
            begin = [id_ for id_ in whole if id_ not in self.end_ids or id_ == self.bos_id]
        return plain if plain[: len(begin)] == begin else begin + plain

    def least_tokens(self, text: str) -> int:
        """So many tokens at least ``text`` is, told by its length alone; 0: nothing can be told."""
        if self._reach is None:
            return 0
        longest, missing = self._reach
        data = text.encode("utf-8", "replace")
        return -(-(len(data) - sum(map(data.count, missing))) // longest)

    @cached_property
    def _reach(self) -> tuple[int, bytes] | None:
        """Decoder.reach; None where a token may stand for any length: text is changed before it is encoded,
        or tokens take the white space around them too."""
        with guarded("the vocabulary cannot be read"):
            changed = self._backend.normalizer is not None
            added = self._backend.get_added_tokens_decoder().values()
            if changed or any(token.lstrip or token.rstrip for token in added):
                return None
            return self._decoder.reach(self._backend.get_vocab())

    def decode(self, ids: TokenIds, skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD. Ids without a token give nothing.

        Raises DcaError: an id is not an integer.
        """
        return self._decoder.text(self._decoder.spellings(ids, skip_special))

    def stream(self, after: TokenIds = (), skip_special: bool = True) -> TextStream | ByteStream:
        """Decodes ids that come one by one after the ids ``after``; see TextStream."""
        kind = ByteStream if self._decoder.byte_level else TextStream
        return kind(self._decoder, after, skip_special)

    @property
    def special_spellings(self) -> frozenset[str]:
        """The texts that ``parse_special`` makes control tokens of."""
        return self._decoder.special

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._backend)

    def to_json(self) -> str:
        """The tokenizer as the text of a tokenizer.json, for other programs. Raises DcaError."""
        with guarded("the tokenizer cannot be written"):
            return self._backend.to_str()

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids after which a text or a turn is over: all that the file names, special tokens or not."""
        named = {self._special_id(name) for name in ("eos", "eot", "eom")}
        listed = self._metadata.get(END_IDS_KEY, [])
        if not isinstance(listed, list) or not all(_is_integer(id_) for id_ in listed):
            raise DcaError(f"{END_IDS_KEY} must be an array of integers", Status.FORMAT)
        with guarded("the added tokens cannot be read"):
            added = self._backend.get_added_tokens_decoder()
        spelled = {id_ for id_, token in added.items() if token.special and token.content in _END_TEXTS}
        return frozenset(spelled | {id_ for id_ in (*named, *listed) if self._text_of(id_) is not None})

    @cached_property
    def special_texts(self) -> dict[str, str]:
        """bos_token, eos_token, … as chat templates call them; only those that the file names."""
        names = ("bos", "eos", "unknown", "padding")
        ids = {name: self._special_id(name) for name in names}
        keys = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        texts = {keys[name]: self._text_of(id_) for name, id_ in ids.items()}
        return {key: text for key, text in texts.items() if text is not None}

    def _encode(self, backend: Backend, text: str, add_special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DcaError(f"the text is not valid Unicode: {error.reason} at index {error.start}") from error
        add_bos, add_eos = self._adds
        with guarded("the text cannot be tokenized"):
            around = add_special and add_bos is None
            if len(text) < _LONG:
                ids = backend.encode(text, add_special_tokens=around).ids
            else:
                ids = backend.encode_batch_fast([text], add_special_tokens=around)[0].ids
        if add_special and add_bos and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        if add_special and add_eos and self.eos_id is not None:
            ids = [*ids, self.eos_id]
        return ids

    @cached_property
    def _adds(self) -> tuple[bool | None, bool]:
        """Whether to add the beginning and the end of text; (None, False) leaves it to tokenizer.json."""
        add_bos = self._flag("tokenizer.ggml.add_bos_token")
        add_eos = self._flag("tokenizer.ggml.add_eos_token") or False
        if add_bos is None and HUGGINGFACE_KEY not in self._metadata:
            byte_level = self._metadata[MODEL_KEY] == "gpt2"
            add_bos = byte_level_pretokenizer(self._metadata).add_bos if byte_level else True
        return add_bos, add_eos

    @cached_property
    def _without_specials(self) -> Backend:
        backend = _build(self._metadata)
        with guarded("special tokens cannot be made text"):
            if isinstance(backend.model, models.Unigram):
                backend = without_special_pieces(backend)
            backend.encode_special_tokens = True  # the package's name for: as ordinary text
        return backend

    def _flag(self, key: str) -> bool | None:
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, bool):
            raise DcaError(f"{key} is {value!r}, it must be true or false", Status.FORMAT)
        return value

    def _special_id(self, name: str) -> int | None:
        """The id that the file names, None where it names none or one without a token. Raises DcaError."""
        key = f"tokenizer.ggml.{name}_token_id"
        id_ = self._metadata.get(key)
        if id_ is not None and not _is_integer(id_):
            raise DcaError(f"{key} must be an integer", Status.FORMAT)
        return id_ if self._text_of(id_) is not None else None

    def _text_of(self, id_: int | None) -> str | None:
        """The token's text, None where there is no such token."""
        if id_ is None or not 0 <= id_ <= MAX_ID:
            return None
        with guarded(f"token {id_} cannot be read"):
            return self._backend.id_to_token(id_)


def _build(metadata: Mapping[str, Any]) -> Backend:
    serialized = metadata.get(HUGGINGFACE_KEY)
    if serialized is None and MODEL_KEY in metadata:
        return build_tokenizer(metadata)
    if serialized is None:
        raise DcaError(
            f"the file has no tokenizer (neither {HUGGINGFACE_KEY} nor {MODEL_KEY})", Status.UNSUPPORTED
        )
    if not isinstance(serialized, str):
        raise DcaError(f"{HUGGINGFACE_KEY} must be a string", Status.FORMAT)
    return build_from_json(serialized, HUGGINGFACE_KEY)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
