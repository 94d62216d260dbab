"""How fast prompts are read here, so that what is stored is loaded only where that is faster.

A token costs the projections, the same for each, and attention over those before it: reading tokens a to b
takes k (b - a) + m (b² - a²) / 2 seconds. Both factors come from the last long reading under the setup.
"""

import contextlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store.directory import SPEED_FILE, Directory, read_json

_LEAST_TOKENS = 1024  # of a reading that tells something


@dataclass(frozen=True)
class Sample:
    """A piece of a prompt, and the seconds it took to read."""

    start: int
    stop: int
    seconds: float


@dataclass(frozen=True)
class Speed:
    """What reading a prompt costs."""

    per_token: float  # k, seconds
    per_pair: float  # m, seconds a token and token before it

    def seconds(self, start: int, stop: int) -> float:
        """To read tokens ``start`` to ``stop`` of a prompt."""
        return self.per_token * (stop - start) + self.per_pair * (stop**2 - start**2) / 2

    def slowest_disk(self, page_bytes: int, start: int, stop: int) -> float:
        """Bytes/s below which reading those tokens again is faster than loading them."""
        return (stop - start) / PAGE_TOKENS * page_bytes / max(self.seconds(start, stop), 1e-9)


def measured(samples: Iterable[Sample]) -> Speed | None:
    """The speed that fits a reading best; None: it was too short to tell."""
    pieces = [one for one in samples if one.stop > one.start and one.seconds > 0]
    if sum(one.stop - one.start for one in pieces) < _LEAST_TOKENS:
        return None
    rows = np.array([(p.stop - p.start, (p.stop**2 - p.start**2) / 2) for p in pieces], np.float64)
    seconds = np.array([piece.seconds for piece in pieces])
    if len(pieces) > 1:
        (per_token, per_pair), *_ = np.linalg.lstsq(rows / rows.max(0), seconds, rcond=None)
        per_token, per_pair = per_token / rows[:, 0].max(), per_pair / rows[:, 1].max()
        if per_token > 0 and per_pair >= 0:
            return Speed(float(per_token), float(per_pair))
    return Speed(float(seconds.sum() / rows[:, 0].sum()), 0.0)  # noise, or one piece: as if all were alike


def load(folder: Path) -> Speed | None:
    """What was saved in a setup's folder; None: nothing, or nothing of use."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        stated = read_json(folder / SPEED_FILE)
        speed = Speed(float(stated["per_token"]), float(stated["per_pair"]))
        if 0 < speed.per_token < math.inf and 0 <= speed.per_pair < math.inf:
            return speed
    return None


def save(directory: Directory, folder: Path, speed: Speed) -> None:
    """Keeps it for other processes, if it can be kept."""
    with contextlib.suppress(OSError):
        directory.write(
            folder / SPEED_FILE, json.dumps({"per_token": speed.per_token, "per_pair": speed.per_pair})
        )
