"""The GGUF keys that say how a scheme was chosen: `dca.tune.verdict` and `.evidence` (docs/format.md)."""

from __future__ import annotations

import json
from typing import Any

from gguf import GGUFValueType

TUNE_KEYS = ("dca.tune.verdict", "dca.tune.evidence")


def tune_entries(verdict: str, evidence: dict[str, Any]) -> dict[str, tuple[GGUFValueType, str]]:
    """Key to (value type, value); the evidence as JSON."""
    values = (verdict, json.dumps(evidence, sort_keys=True))
    return {key: (GGUFValueType.STRING, value) for key, value in zip(TUNE_KEYS, values, strict=True)}
