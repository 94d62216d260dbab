"""Texts that tokenizers stumble over, and vocabularies in which a wrong cut of them shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import tiny

HARD = [
    "Hello world",
    " leading space",
    "  two leading spaces and two  inside, one behind ",
    "tabs\tand\n\nnewlines\r\n  \n   indented",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < 10; ++i) { a[i] += b->c; }",
    "1234567890123456789012345678901234567890 3.14159 1,000,000 0x7fff 12ab34",
    "I'm you're WE'LL they'd it's O'Brien 'tis",
    "Tiếng Việt có nhiều dấu thanh: ngã, hỏi, nặng.",
    "中文分词并不容易，尤其是没有空格。日本語のテキスト、カタカナ。한국어 문장",
    "اللغة العربية تُكتب من اليمين إلى اليسار ١٢٣",
    "emoji 😀👩‍👩‍👧‍👦🇻🇳 and combining e\u0301 and zero\u200bwidth",
    "½ ² Ⅷ ٣ 𝟛 numbers that are not digits",
    "naïve café ÀÉÎÕÜ ß ﬁ",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>text <|im_end|> after",
    "<|im_start|><|im_start|>  <|not_a_token|>",
    "a" * 300,
    " " * 70 + "x" + "\n" * 9,
    "\x00\x01\x7f control bytes",
    "camelCaseHTTPServer's getURLPath() isn'T McDonald iPhoneS",
    "a.method(self)->x[i]{y} .com /usr/lib \"quoted\" 'single' (in) (the $the",
    "हिन्दी देवनागरी संयुक्त ภาษาไทย ไม่มีช่องว่าง",
    "12中文34 one,two;three...four!!! a  b   c    d\n\n\n\te",
]


PRETOKENIZERS = [
    "default",
    "gpt-2",
    "llama-bpe",
    "glm4",
    "dbrx",
    "qwen2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "bloom",
    "viking",
]


def metadata_of(path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def write_vocabulary(path: Path, pre: str) -> None:
    """A byte-level vocabulary that merges every two and three bytes in HARD, so that any wrong cut shows."""
    alphabet = tiny.byte_characters()
    texts = ["".join(alphabet[byte] for byte in text.encode()) for text in HARD]
    pairs = sorted({text[i : i + 2] for text in texts for i in range(len(text) - 1)})
    triples = sorted({text[i : i + 3] for text in texts for i in range(len(text) - 2)})
    tokens = list(dict.fromkeys([*tiny.SPECIAL, *alphabet, *pairs, *triples]))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tiny.SPECIAL else 1 for token in tokens])
    writer.add_token_merges([f"{token[:-1]} {token[-1]}" for token in pairs + triples])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """A file that holds these values and no tensors; its architecture is llama."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_int64(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
