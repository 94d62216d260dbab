"""What an export tells about what it wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gguf import GGMLQuantizationType

from dca_export.export.scheme_choice import SchemeChoice
from dca_export.model.rope import TrainedLength


@dataclass(frozen=True)
class SchemeFacts:
    """A model's trained length, the scheme it got, and notes for the user."""

    trained: TrainedLength
    choice: SchemeChoice
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The facts for a person."""
        lines = [f"trained  {self.trained.tokens:,} tokens ({self.trained.source})"]
        scheme, source = self.choice.scheme, self.choice.source
        if (string := self.choice.border) is not None:
            lines.append(
                f"scheme   STRING: border {string.border:,}, local_window {string.local_window:,} ({source})"
            )
            reach = self.trained.tokens + string.border - string.local_window
            lines.append(f"context  {reach:,} tokens without a distance that is new to the model")
        elif scheme is None:
            lines.append(f"scheme   plain attention ({source})")
            lines.append(f"context  {self.trained.tokens:,} tokens")
        else:
            c = scheme.pretraining_length
            sharpened = (
                f", logits sharpened beyond {scheme.logit_scale_length:,} tokens"
                if scheme.logit_scale > 0
                else ""
            )
            lines.append(
                f"scheme   chunk_size {scheme.chunk_size:,}, local_window {scheme.local_window:,}, "
                f"pretraining_length {c:,}{sharpened} ({source})"
            )
            lines.append(
                f"context  no distance above {c - 1:,} at any length; how far it reads well, and with which "
                "scheme, dca-eval sweep measures"
            )
        return lines + [f"note     {note}" for note in self.notes]

    def as_json(self) -> dict[str, Any]:
        """The facts for a program."""
        scheme = self.choice.scheme
        fields = ("chunk_size", "local_window", "pretraining_length", "logit_scale", "logit_scale_length")
        return {
            "trained_length": self.trained.tokens,
            "trained_length_source": self.trained.source,
            "scheme": None if scheme is None else {name: getattr(scheme, name) for name in fields},
            "string": None if self.choice.border is None else vars(self.choice.border),
            "scheme_source": self.choice.source,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Summary:
    """Facts about a GGUF file; `types` counts tensors, `bytes` their data."""

    architecture: str
    parameters: int
    bytes: int
    types: dict[str, int]
    scheme: SchemeFacts

    def lines(self) -> list[str]:
        """The summary for a person."""
        types = ", ".join(f"{count} {name}" for name, count in self.types.items())
        return [
            f"model    {self.architecture}, {short_count(self.parameters)} parameters, {size(self.bytes)}",
            f"tensors  {types}",
            *self.scheme.lines(),
        ]

    def as_json(self) -> dict[str, Any]:
        """The summary for a program."""
        model = {
            "architecture": self.architecture,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "types": self.types,
        }
        return model | self.scheme.as_json()


def count_types(types: Iterable[GGMLQuantizationType]) -> dict[str, int]:
    """How many tensors there are of each type, most first."""
    return {kind.name: count for kind, count in Counter(types).most_common()}


def short_count(number: int) -> str:
    """135M for 134,515,008."""
    for unit_size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit_size:
            return f"{number / unit_size:.3g}{unit}"
    return str(number)


def size(number: int) -> str:
    """Bytes with a decimal unit."""
    for unit_size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= unit_size:
            return f"{number / unit_size:.2f} {unit}"
    return f"{number / 1e3:.1f} kB"
