"""What the original checkpoint states itself, against what the file under test says of it.

Comparing logits gives both sides the file's own token ids and scheme; here these are held against the
checkpoint's tokenizer and configuration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.gguf.file import GgufFile
from dca_export.gguf.scheme_keys import read_scheme
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_runtime import Model

DUAL_CHUNK = "dual_chunk_attention_config"


@dataclass
class Facts:
    """`failures`: where the file contradicts the checkpoint; `notes`: what was compared, or could not be."""

    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, found: Any, wanted: Any) -> None:
        """Notes what agrees; numbers agree that are the same in f32."""
        same = found == wanted
        if isinstance(found, int | float) and isinstance(wanted, int | float):
            same = np.float32(found) == np.float32(wanted)
        if same:
            self.notes.append(f"{what} {wanted} is the checkpoint's")
        else:
            self.failures.append(f"{what} is {found} in the file, {wanted} in the checkpoint")


def compare_facts(model: Model, reference: Path, ids: Sequence[int], text: str | None) -> Facts:
    """`ids` are those that the file's tokenizer gives for the start of `text` (None: random ids)."""
    facts = Facts()
    file = GgufFile(Path(model.path))
    prefix = file.architecture
    scheme = read_scheme(file, str(file.path))
    epsilon = _epsilon(file)
    base = file.get(f"{prefix}.rope.freq_base", 10000.0)
    if reference.is_dir():
        config = json.loads((reference / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        rope = config.get("rope_parameters") or config
        rope = rope.get("full_attention") or rope  # layers with a window have their own
        stated = config.get(DUAL_CHUNK)
        for key in ("rms_norm_eps", "layer_norm_eps"):
            if key in config:
                facts.compare("epsilon", epsilon, config[key])
        facts.compare("rotary base", base, rope.get("rope_theta", config.get("rope_theta", 10000.0)))
        if stated is not None:
            facts.compare("scheme", scheme, Scheme.from_dual_chunk_config(stated))
        wanted = _ids_of_directory(reference, text)
    else:
        other = GgufFile(reference)
        prefix = other.architecture
        facts.compare("epsilon", epsilon, _epsilon(other))
        facts.compare("rotary base", base, other.get(f"{prefix}.rope.freq_base", 10000.0))
        if (stated_scheme := read_scheme(other, str(reference))) is not None:
            facts.compare("scheme", scheme, stated_scheme)
        wanted = _ids_of_gguf(reference, text)
    _compare_ids(facts, ids, wanted, text)
    return facts


def _epsilon(file: GgufFile) -> Any:
    prefix = f"{file.architecture}.attention.layer_norm"
    return file.get(f"{prefix}_rms_epsilon", file.get(f"{prefix}_epsilon", None))


def _compare_ids(facts: Facts, ids: Sequence[int], wanted: list[int] | None, text: str | None) -> None:
    if text is None:
        facts.notes.append("token ids are random: the file has no tokenizer to compare")
    elif wanted is None:
        facts.notes.append("token ids are not compared: the reference has no tokenizer that can be read")
    else:
        pairs = enumerate(zip(ids, wanted, strict=False))
        first = next((index for index, (one, other) in pairs if one != other), None)
        if first is None:
            facts.notes.append(f"{len(ids):,} token ids are those of the checkpoint's tokenizer")
        else:
            facts.failures.append(
                f"token {first} of the text is {ids[first]}, by the checkpoint's tokenizer {wanted[first]}"
            )


def _ids_of_directory(directory: Path, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        if (directory / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return list(tokenizer.encode(text).ids)
        from transformers import AutoTokenizer

        return list(AutoTokenizer.from_pretrained(directory, local_files_only=True)(text)["input_ids"])
    except Exception:  # each kind of tokenizer has its own errors for a directory without one
        return None


def _ids_of_gguf(path: Path, text: str | None) -> list[int] | None:
    from dca_runtime import DcaError, Model

    if text is None:
        return None
    try:
        with Model(path, "cpu", repack=False) as model:
            return list(model.tokenize(text))
    except DcaError:
        return None
