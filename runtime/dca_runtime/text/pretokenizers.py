"""How byte-level BPE tokenizers cut text before merging, by the names GGUF gives them.

``tokenizer.ggml.pre`` names one entry. An entry's patterns apply one after another, each to the pieces
that the ones before it left; what a pattern does not match stays a piece too. The patterns are those of
the models' own tokenizer.json files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pretokenizer:
    """The patterns, and what else goes with the name."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token as a whole is not built from merges
    add_bos: bool = False  # where tokenizer.ggml.add_bos_token is absent


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CJK = r"[一-龥぀-ゟ゠-ヿ]+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(digits: str, letters: str = r"\p{L}", contractions: str = _CONTRACTIONS) -> str:
    """The shape that GPT-4's tokenizer began: words with one leading character, runs of ``digits``."""
    other = rf" ?[^\s{letters}\p{{N}}]+[\r\n]*"
    return rf"{contractions}|[^\r\n\p{{L}}\p{{N}}]?[{letters}]+|{digits}|{other}|{_SPACES}"


def _cased_words(digits: str, contractions: str = "") -> str:
    """Words that also end where lower case turns to upper case, as in o200k and Tekken."""
    head = r"[^\r\n\p{L}\p{N}]?"
    optional = f"{contractions}?" if contractions else ""
    return (
        rf"{head}{_UPPER}*{_LOWER}+{optional}|{head}{_UPPER}+{_LOWER}*{optional}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
# deepseek-llm spells out the letters that have a case, as they were in the Unicode of its day.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
# deepseek-llm's own is "\s+$", tried again from each space of a run that something follows: quadratic.
_TRAILING_SPACE = r"(?<!\s)\s+$"
_LINEAR = {r"\s+$": _TRAILING_SPACE}
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_FAMILIES: dict[tuple[str, ...], Pretokenizer] = {
    ("default",): Pretokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    (
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "gigachat",
        "a.x-4.0",
        "mellum",
        "exaone4",
        "trillion",
        "granite-docling",
    ): Pretokenizer((_GPT2,)),
    (
        "smollm",
        "starcoder",
        "refact",
        "command-r",
        "codeshell",
        "exaone",
        "minerva-7b",
        "mellum2",
    ): Pretokenizer((r"\p{N}", _GPT2)),
    (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    ): Pretokenizer((_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True),
    ("dbrx", "smaug-bpe", "chatglm-bpe"): Pretokenizer((_words(r"\p{N}{1,3}"),)),
    ("glm4", "glm5"): Pretokenizer((_words(r"\p{N}{1,3}"),), ignore_merges=True),
    (
        "qwen2",
        "deepseek-r1-qwen",
        "kormo",
        "stablelm2",
        "hunyuan",
        "solar-open",
        "megrez",
        "grok-2",
    ): Pretokenizer((_words(r"\p{N}"),)),
    ("qwen35",): Pretokenizer((_words(r"\p{N}", letters=r"\p{L}\p{M}"),)),
    ("tekken",): Pretokenizer((_cased_words(r"\p{N}"),), ignore_merges=True, add_bos=True),
    ("gpt-4o", "llama4", "kanana2", "minimax-m2"): Pretokenizer(
        (_cased_words(r"\p{N}{1,3}", _CONTRACTIONS),)
    ),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm"): Pretokenizer((r"\p{N}{1,3}", _CJK, _DEEPSEEK_WORDS)),
    ("deepseek-llm",): Pretokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            _TRAILING_SPACE,
            r"[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        )
    ),
    ("deepseek-coder",): Pretokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    ("falcon",): Pretokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("bloom", "poro-chat", "gpt3-finnish"): Pretokenizer((_BLOOM,)),
    ("viking",): Pretokenizer((_BLOOM, r"\p{N}")),
}

PRETOKENIZERS: dict[str, Pretokenizer] = {name: entry for names, entry in _FAMILIES.items() for name in names}


def linear_pattern(pattern: str) -> str:
    """A pattern that cuts as ``pattern`` does, in time that is linear in the text where one is known."""
    return _LINEAR.get(pattern, pattern)
