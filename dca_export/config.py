"""config.json of a Hugging Face model, read with every value checked before it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dca_export.errors import InputError
from dca_export.small_files import read_bytes

MAX_INTEGER = 2**31 - 1  # GGUF stores hyperparameters as u32 and engines read them as i32
# GGUF stores them as f32 too: the largest, and the least above 0 (below half of it they round to 0).
MAX_FLOAT, MIN_FLOAT = (2 - 2**-23) * 2.0**127, 2.0**-149


def read_json(path: Path) -> Any:
    """The value a JSON file holds; InputError if it is missing or is no JSON."""
    data = read_bytes(path)
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Like read_json, for a file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


class Config:
    """Checked access to a JSON object; a JSON null counts as absent. `where` names it in errors."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    @classmethod
    def read(cls, path: Path) -> Config:
        """The object that the JSON file at `path` holds."""
        return cls(read_json_object(path), str(path))

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def section(self, key: str) -> Config | None:
        """The object under `key`, None where there is none."""
        if key not in self:
            return None
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.error(key, "must be an object")
        return Config(value, f"{self.where}: {key}")

    def integer(self, key: str, default: int | None = None, lowest: int = 1) -> int:
        """An integer from `lowest` to 2³¹ - 1."""
        value = self._get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # some configs write 131072.0
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_INTEGER:
            raise self.error(key, f"must be an integer from {lowest} to {MAX_INTEGER}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0, also as f32."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "must be a number")
        if not MIN_FLOAT <= value <= MAX_FLOAT:  # exact for integers of any size; false for NaN
            raise self.error(key, f"must be finite and above 0{_in_f32(value)}")
        return float(value)

    def positives(self, key: str) -> list[float]:
        """A list of finite numbers above 0, also as f32."""
        values = self._get(key, None)
        if not isinstance(values, list):
            raise self.error(key, "must be a list of numbers")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.error(key, "must be a list of numbers")
            if not MIN_FLOAT <= value <= MAX_FLOAT:
                raise InputError(
                    f"{self.where}: {key} holds {_shown(value)}, its numbers must be finite and above 0"
                    f"{_in_f32(value)}"
                )
        return [float(value) for value in values]

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def error(self, key: str, rule: str) -> InputError:
        """The error for a value of `key` that breaks `rule`."""
        return InputError(f"{self.where}: {key} is {_shown(self.values.get(key))}, {rule}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"{self.where}: {key} is missing")
        return value


def _shown(value: Any) -> str:
    """A JSON value for a message, shortened."""
    try:
        shown = json.dumps(value, default=repr)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists without end
        return f"a {type(value).__name__} too long to show"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _in_f32(value: int | float) -> str:
    """What to add to "finite and above 0" for a number that is, but only with more bits."""
    return f" as a 32-bit float ({MIN_FLOAT:.1e} to {MAX_FLOAT:.1e})" if 0 < value < math.inf else ""
