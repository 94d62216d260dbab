"""The tokenizer of a Hugging Face directory as GGUF keys: tokenizer.ggml.* and tokenizer.huggingface.json.

Three kinds, as llama.cpp names them: "gpt2", byte-level BPE, "llama", SentencePiece's BPE, and "t5",
SentencePiece's unigram model. The keys of
llama.cpp follow from the effective tokenizer; where they cannot say what it does, a note tells the user.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
from gguf import TokenType

from dca_export.errors import InputError
from dca_export.tokenizer.effective import Effective, input_errors, read_effective
from dca_export.tokenizer.pre_tokenizer import pre_tokenizer_name
from dca_export.tokenizer.settings import Settings, is_unicode
from dca_export.tokenizer.special_tokens import SpecialTokens, read_special_tokens
from dca_runtime.text.tokenizer import END_IDS_KEY
from dca_runtime.text.vocabulary import SPACE

BYTE_LEVEL, SENTENCEPIECE, UNIGRAM = "gpt2", "llama", "t5"

UNUSED_SCORE = -10000.0  # what llama.cpp gives ids that no token has, and
ADDED_SCORE = -1000.0  # tokens added to a SentencePiece model: below all of its own
UNMERGED_SCORE = -1e6  # pieces that no merge makes: llama.cpp merges whatever makes a piece, best score first

# Added tokens that a config forgot to call special: llama.cpp takes these texts for control tokens too.
_CONTROL_TEXT = re.compile(r"<\|.*\|>|<｜.*｜>|<pad>|<mask>", re.DOTALL)
_BYTE_TEXT = re.compile(r"<0x[0-9A-Fa-f]{2}>")

_ID_KEYS = {
    "bos": gguf.Keys.Tokenizer.BOS_ID,
    "eos": gguf.Keys.Tokenizer.EOS_ID,
    "unk": gguf.Keys.Tokenizer.UNK_ID,
    "sep": gguf.Keys.Tokenizer.SEP_ID,
    "pad": gguf.Keys.Tokenizer.PAD_ID,
    "mask": gguf.Keys.Tokenizer.MASK_ID,
}


@dataclass
class Vocabulary:
    """Everything a GGUF file says of a tokenizer. `notes` are for the user."""

    kind: str
    pre: str
    tokens: list[bytes]
    types: list[int]
    special: SpecialTokens
    huggingface_json: str
    scores: list[float] | None = None
    merges: list[str] = field(default_factory=list)
    space_prefix: bool | None = None
    character_map: bytes = b""  # of the kind "t5"
    removes_extra_spaces: bool | None = None  # likewise
    chat_template: str | list[dict[str, str]] | None = None
    notes: list[str] = field(default_factory=list)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys to a file that is being prepared."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        for name, key in _ID_KEYS.items():
            if name in self.special.ids:
                writer.add_uint32(key, self.special.ids[name])
        if len(self.special.ends) > 1:
            writer.add_eot_token_id(self.special.ends[1])  # engines without our key know two ends
        if self.special.ends:
            writer.add_key_value(
                END_IDS_KEY, self.special.ends, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
            )
        for name, adds in self.special.adds.items():
            writer.add_bool(f"tokenizer.ggml.add_{name}_token", adds)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.character_map:
            writer.add_precompiled_charsmap(self.character_map)
        if self.removes_extra_spaces is not None:
            writer.add_remove_extra_whitespaces(self.removes_extra_spaces)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)
        writer.add_string(gguf.Keys.Tokenizer.HF_JSON, self.huggingface_json)


def read_vocabulary(directory: Path, vocab_size: int) -> Vocabulary:
    """The tokenizer in `directory`, for a model with `vocab_size` embeddings. Raises InputError."""
    settings = Settings(directory)
    template = settings.chat_template()
    effective = read_effective(settings, vocab_size)
    with input_errors():
        special = read_special_tokens(effective, settings, vocab_size)
        vocabulary = _Keys(effective, special, vocab_size).vocabulary()
    vocabulary.chat_template = template
    return vocabulary


class _Keys:
    """llama.cpp's keys for a tokenizer, while they are put together."""

    def __init__(self, effective: Effective, special: SpecialTokens, vocab_size: int) -> None:
        self._effective = effective
        self._model = effective.parsed["model"]
        self._size = vocab_size
        kind = BYTE_LEVEL if effective.is_byte_level else SENTENCEPIECE
        if effective.is_unigram:
            kind = UNIGRAM
        self._out = Vocabulary(
            kind,
            "default",
            tokens=[b"[PAD%d]" % id_ for id_ in range(vocab_size)],
            types=[int(TokenType.UNUSED)] * vocab_size,
            special=special,
            huggingface_json=effective.text,
            notes=[*effective.notes, *special.notes],
        )

    def vocabulary(self) -> Vocabulary:
        """The keys. Raises InputError if there are none for such a tokenizer."""
        if self._out.kind == UNIGRAM:
            self._unigram()
        else:
            self._place(self._model["vocab"])
            fill = self._byte_level if self._out.kind == BYTE_LEVEL else self._sentencepiece
            fill()
        self._add_added_tokens()
        if self._effective.pieces is not None:
            self._take_pieces()
        return self._out

    def _place(self, ids: Mapping[str, int]) -> None:
        for token, id_ in ids.items():
            if not is_unicode(token):
                raise InputError(f"{self._effective.source}: token {id_} is not valid Unicode")
            if id_ < self._size:
                self._out.tokens[id_] = token.encode("utf-8")
                self._out.types[id_] = int(TokenType.NORMAL)
        self._note_beyond(max(ids.values(), default=-1) + 1 - self._size, self._effective.source.name)

    def _note_beyond(self, count: int, name: str) -> None:
        if count > 0:
            self._out.notes.append(
                f"{count} tokens of {name} have ids beyond the model's {self._size}: left out"
            )

    def _byte_level(self) -> None:
        self._out.merges = [_merge_text(merge) for merge in self._model["merges"]]
        name = pre_tokenizer_name(self._effective.parsed)
        if name is None:
            self._out.notes.append(
                "this tokenizer cuts text in a way that llama.cpp has no name for: there it may give other "
                'tokens (tokenizer.ggml.pre is "default"); dca-run uses tokenizer.huggingface.json'
            )
        self._out.pre = name or "default"
        steps = self._effective.steps("normalizer")
        changes = [
            step["type"] for step in steps if step["type"] != "NFC"
        ]  # NFC: few texts are anything else
        cannot = [f"that text is normalised first ({', '.join(changes)})"] if changes else []
        if any(step.get("add_prefix_space") for step in self._effective.steps("pre_tokenizer")):
            cannot.append("that a text gets a space in front")
        self._note_what_keys_cannot_say(cannot)

    def _sentencepiece(self) -> None:
        """Scores follow from the order of merges: the piece that is made first has the best."""
        if not self._model.get("byte_fallback") and self._effective.pieces is None:
            raise InputError(f"{self._effective.source}: neither byte-level BPE nor SentencePiece's BPE")
        vocab: dict[str, int] = self._model["vocab"]
        scores = [UNUSED_SCORE] * self._size
        unmerged = {id_ for token, id_ in vocab.items() if id_ < self._size and len(token) > 1}
        for id_ in vocab.values():
            if id_ < self._size:
                scores[id_] = 0.0
        for rank, merge in enumerate(self._model["merges"]):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            if (id_ := vocab.get(left + right, self._size)) in unmerged:
                scores[id_] = -float(rank + 1)
                unmerged.discard(id_)
        for token, id_ in vocab.items():
            if id_ < self._size and self._model.get("byte_fallback") and _BYTE_TEXT.fullmatch(token):
                self._out.types[id_] = int(TokenType.BYTE)
                unmerged.discard(id_)
        if (unknown := vocab.get(self._model.get("unk_token"), self._size)) < self._size:
            self._out.types[unknown] = int(TokenType.UNKNOWN)
            unmerged.discard(unknown)
        unmerged -= {entry["id"] for entry in self._effective.parsed["added_tokens"]}
        for id_ in unmerged:
            scores[id_] = UNMERGED_SCORE
        self._out.scores = scores
        self._space_prefix_and_notes(len(unmerged))

    def _unigram(self) -> None:
        """Scores are the pieces' own; of equal pieces the first counts."""
        ids: dict[str, int] = {}
        for id_, (token, _) in enumerate(self._model["vocab"]):
            ids.setdefault(token, id_)
        self._place(ids)
        scores = [UNUSED_SCORE] * self._size
        for id_, (_, score) in enumerate(self._model["vocab"][: self._size]):
            scores[id_] = score
        for token, id_ in ids.items():
            if id_ < self._size and self._model.get("byte_fallback") and _BYTE_TEXT.fullmatch(token):
                self._out.types[id_] = int(TokenType.BYTE)
        unknown = self._model.get("unk_id")
        if unknown is not None and unknown < self._size:
            self._out.types[unknown] = int(TokenType.UNKNOWN)
        self._out.scores = scores
        steps = [*self._effective.steps("normalizer"), *self._effective.steps("pre_tokenizer")]
        for step in steps:
            if step["type"] == "Precompiled":
                self._out.character_map = base64.b64decode(step["precompiled_charsmap"])
        self._out.removes_extra_spaces = any(
            step["type"] == "WhitespaceSplit"
            or (
                step["type"] == "Replace"
                and step["content"] in (" ", SPACE)
                and "{2,}" in str(step["pattern"])
            )
            for step in steps
        )
        self._space_prefix_and_notes(0)

    def _space_prefix_and_notes(self, unmerged: int) -> None:
        steps = [*self._effective.steps("normalizer"), *self._effective.steps("pre_tokenizer")]
        schemes = {step.get("prepend_scheme") for step in steps if step.get("type") == "Metaspace"}
        prepends = any(step.get("type") == "Prepend" for step in steps)
        self._out.space_prefix = prepends or bool(schemes & {"always", "first"})
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        said: tuple[str, ...] = ("Metaspace", "Prepend")
        if self._out.kind == UNIGRAM:
            said += ("Precompiled", "Replace", "Strip", "WhitespaceSplit")
        changes = [step["type"] for step in steps if step["type"] not in said and step != spaces]
        cannot = []
        if changes:
            cannot.append(f"that text is normalised first ({', '.join(dict.fromkeys(changes))})")
        if "first" in schemes:
            cannot.append("that text after a special token gets no space in front")
        if unmerged:
            cannot.append(f"that {unmerged} pieces come from no merge")
        self._note_what_keys_cannot_say(cannot)

    def _note_what_keys_cannot_say(self, cannot: list[str]) -> None:
        if cannot:
            self._out.notes.append(
                f"the keys of llama.cpp cannot say {' and '.join(cannot)}: there it may give other tokens; "
                "dca-run uses tokenizer.huggingface.json"
            )

    def _add_added_tokens(self) -> None:
        out, beyond = self._out, 0
        for entry in self._effective.parsed["added_tokens"]:
            id_, text = entry["id"], entry["content"]
            if id_ >= self._size:
                beyond += 1
                continue
            if out.types[id_] in (TokenType.UNKNOWN, TokenType.BYTE):
                continue
            if entry.get("special") or _CONTROL_TEXT.fullmatch(text):
                out.types[id_] = int(TokenType.CONTROL)
            else:
                out.types[id_] = int(TokenType.USER_DEFINED)
                if out.kind != BYTE_LEVEL:  # matched before spaces become visible ones
                    text = text.replace("\u2581", " ")
            out.tokens[id_] = text.encode("utf-8")
            if out.scores is not None:
                out.scores[id_] = ADDED_SCORE
        if beyond:
            self._note_beyond(beyond, "the added tokens")

    def _take_pieces(self) -> None:
        """tokenizer.model states scores and types itself."""
        pieces, out = self._effective.pieces, self._out
        assert pieces is not None and out.scores is not None
        added = {entry["id"] for entry in self._effective.parsed["added_tokens"]}
        for id_, (text, score, kind) in enumerate(
            zip(pieces.texts, pieces.scores, pieces.types, strict=True)
        ):
            if id_ < self._size and out.tokens[id_] == text:
                out.scores[id_] = score
                out.types[id_] = out.types[id_] if id_ in added else kind


def _merge_text(merge: str | list[str]) -> str:
    """'left right'; a space inside a part is written as byte-level BPE writes it."""
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", "Ġ") for part in merge)
