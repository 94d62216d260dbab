"""What is embedded must give the ids that the source gives: compared on hard texts before a file is written.

The source is read once more, by another way than the one that made tokenizer.json: a tokenizer.json as it
stands in the file, SentencePiece's and tiktoken's vocabularies by the plain loops that define them. How text
is normalised and cut into pieces is taken from the tokenizer; what becomes of the pieces is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from gguf import TokenType
from tokenizers import Tokenizer

from dca_export.errors import InputError
from dca_export.tokenizer.pre_tokenizer import PROBE
from dca_export.tokenizer.rank_files import Ranks, byte_characters
from dca_export.tokenizer.sentencepiece_model import SentencePieceModel
from dca_runtime.text.rust_guard import guarded
from dca_runtime.text.vocabulary import SPACE

HARD_TEXTS = (
    PROBE,
    "",
    " ",
    "\n\n\n   \t",
    "a" * 40 + "b" * 3,
    "the the  the   the",
    "Hello, World! I'm 3.14159 years old; it's 2024-01-31T23:59:59Z.",
    "def f(x: int) -> str:\n\treturn f'{x!r:>10}'  # noqa\n",
    "https://example.org/a/b?c=%20d&e=f#g user@host C:\\dir\\file.txt",
    "ﬁ ﬃ Å Å ½ ① ㍿ ＡＢＣ ｱｲｳ \u00ad\u200b\u200d\ufeff\u0000x",
    "I\u0307 ß ẞ ſ ς Σ ǆ ﷺ",
    "😀😃 👩‍👩‍👧‍👦 🏴\U000e0067\U000e0062 🇩🇪 \U0001f9ff\U000107ff",
    "ᄀ각힣 ไทย ລາວ မြန်မာ ქართული አማርኛ བོད ᚠᛇᚻ 𐍈 𝔘𝔫𝔦",
    "0123456789 00000000 1e-10 0x7fFF ²³ ٠١٢",
    "----====____****####!!!!????....,,,,;;;;",
)

Part = TypeVar("Part", bytes, str)
Encode = Callable[[str], list[int]]
Cut = Callable[[str], list[str]]  # a text, normalised, in the pieces that nothing is merged across


def check_agreement(embedded: Encode, source: Encode, passed_over: Callable[[str], bool], name: str) -> None:
    """Raises InputError, naming the text and where it differs, if the two give other ids for a hard text."""
    for text in HARD_TEXTS:
        if passed_over(text):
            continue
        found, wanted = embedded(text), source(text)
        if found != wanted:
            differ = (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b)
            at = next(differ, min(len(found), len(wanted)))
            raise InputError(
                f"{name}: the tokenizer made of it gives other ids than it does itself for {text[:30]!r}: id "
                f"{at} is {_shown(found, at)}, not {_shown(wanted, at)}; export cannot go on"
            )


def _shown(ids: Sequence[int], at: int) -> str:
    return str(ids[at]) if at < len(ids) else "missing"


def by_ranks(ranks: Ranks, pieces: Cut) -> Encode:
    """tiktoken's loop over the bytes of each piece; `pieces` gives them as byte-level BPE writes bytes."""
    byte_of = {character: byte for byte, character in byte_characters().items()}

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for piece in pieces(text):
            whole = bytes(byte_of[character] for character in piece)
            parts = [whole] if whole in ranks.ranks else [bytes([byte]) for byte in whole]
            ids += [
                ranks.first_id + ranks.ranks[part]
                for part in merged(parts, lambda left, right: ranks.ranks.get(left + right))
            ]
        return ids

    return encode


def merged(parts: list[Part], rank: Callable[[Part, Part], Any]) -> list[Part]:
    """Neighbours merged, the union of lowest rank first, leftmost of equals, while any union has a rank."""
    while True:
        best: Any = None  # (rank, where)
        for i, (left, right) in enumerate(pairwise(parts)):
            found = rank(left, right)
            if found is not None and (best is None or found < best[0]):
                best = (found, i)
        if best is None:
            return parts
        at: int = best[1]
        parts = parts[:at] + [parts[at] + parts[at + 1]] + parts[at + 2 :]


def by_scores(model: SentencePieceModel, pieces: Cut) -> Encode:
    """SentencePiece's BPE: the union of highest score first, the lower id of equals."""
    ids = _ids(model, TokenType.NORMAL)

    def rank(left: str, right: str) -> tuple[float, int] | None:
        id_ = ids.get(left + right)
        # Every character of a trained piece is a piece; made-up vocabularies may lack some.
        return None if id_ is None or not {left, right} <= ids.keys() else (-model.scores[id_], id_)

    return _encoder(model, ids, lambda piece: merged(list(piece), rank), pieces)


def by_likelihood(model: SentencePieceModel, pieces: Cut) -> Encode:
    """SentencePiece's unigram model: the cut of highest total score; an unknown character has 10 less than
    the lowest score."""
    ids = _ids(model, *TokenType)
    longest = max(map(len, ids), default=1)
    least = min(model.scores) - 10.0

    def cut(piece: str) -> list[str]:
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(piece) + 1):
            options = [
                (best[start][0] + model.scores[ids[piece[start:end]]], start)
                for start in range(max(0, end - longest), end)
                if piece[start:end] in ids
            ]
            if piece[end - 1] not in ids:
                options.append((best[end - 1][0] + least, end - 1))
            best.append(max(options, key=lambda option: option[0]))
        found: list[str] = []
        end = len(piece)
        while end:
            start = best[end][1]
            found.append(piece[start:end])
            end = start
        return found[::-1]

    return _encoder(model, ids, cut, pieces)


def _ids(model: SentencePieceModel, *types: int) -> dict[str, int]:
    """The first id of each piece of these types."""
    found: dict[str, int] = {}
    for id_, (text, kind) in enumerate(zip(model.texts, model.types, strict=True)):
        if kind in types:
            found.setdefault(text.decode("utf-8"), id_)
    return found


def _encoder(model: SentencePieceModel, ids: dict[str, int], parts_of: Cut, pieces: Cut) -> Encode:
    """From a text to ids: characters of no piece become their bytes, or are unknown, those in a row once."""
    unknown = next((id_ for id_, kind in enumerate(model.types) if kind == TokenType.UNKNOWN), None)
    bytes_ = _ids(model, TokenType.BYTE)

    def encode(text: str) -> list[int]:
        out: list[int] = []
        for piece in pieces(text):
            before = len(out)
            for part in parts_of(piece):
                if part in ids:
                    out.append(ids[part])
                elif len(bytes_) == 256:
                    out += [bytes_[f"<0x{byte:02X}>"] for byte in part.encode()]
                elif unknown is not None and (len(out) == before or out[-1] != unknown):
                    out.append(unknown)
        return out

    return encode


def pieces_of(built: Tokenizer, whole: Collection[str], name: str) -> Callable[[str], list[str] | None]:
    """Cuts texts as a tokenizer does; None for one with a token that is matched as a `whole` first."""

    def pieces(text: str) -> list[str] | None:
        with guarded(f"{name}: it cannot cut a text"):
            normal = built.normalizer.normalize_str(text) if built.normalizer else text
            if any(token in each for token in whole for each in (text, normal, normal.replace(" ", SPACE))):
                return None
            if not built.pre_tokenizer:
                return [normal] if normal else []
            return [piece for piece, _ in built.pre_tokenizer.pre_tokenize_str(normal)]

    return pieces
