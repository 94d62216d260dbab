"""JSON that every reader takes: RFC 8259 has neither NaN nor infinity."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON; null stands for numbers that are not finite."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
