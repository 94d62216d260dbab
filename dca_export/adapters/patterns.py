"""Which of an adapter's patterns is a module's first: regular expressions of a stranger, tried apart.

Python's take exponential time for some, so all but plain names are matched in a process that can be ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from dca_export.config import Config
from dca_export.errors import InputError

SECONDS = 5.0
_MEMORY = 1 << 30

_PLAIN = re.compile(r"[\w.]*", re.ASCII)
_APART = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
patterns, modules = json.load(sys.stdin)
compiled = []
for at, pattern in enumerate(patterns):
    try:
        compiled.append(re.compile(rf"(.*\\.)?({{pattern}})$"))
    except (re.error, OverflowError, RecursionError, MemoryError):
        print(at)
        sys.exit(3)
print(json.dumps([next((i for i, p in enumerate(compiled) if p.match(m)), None) for m in modules]))
"""


def matched(config: Config, key: str, modules: Sequence[str]) -> dict[str, object]:
    """By module, what the first pattern under `key` that ends like its name gives; only of those with one.

    Raises InputError for what is no pattern, or takes too long.
    """
    section = config.section(key)
    if section is None or not section.values:
        return {}
    patterns, given = list(section.values), list(section.values.values())
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        tried = [re.compile(rf"(.*\.)?({pattern})$") for pattern in patterns]
        found = [next((i for i, each in enumerate(tried) if each.match(name)), None) for name in modules]
    else:
        found = _apart(config, key, patterns, modules)
    return {name: given[at] for name, at in zip(modules, found, strict=True) if at is not None}


def _apart(config: Config, key: str, patterns: list[str], modules: Sequence[str]) -> list[int | None]:
    asked = json.dumps([patterns, list(modules)])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _APART], input=asked, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{config.where}: {key}: its patterns take more than {SECONDS:g} s") from None
    if done.returncode == 3:
        raise config.error(key, f"{patterns[int(done.stdout)][:40]!r} is no pattern of names")
    if done.returncode:
        raise InputError(f"{config.where}: {key}: its patterns cannot be matched")
    found: list[int | None] = json.loads(done.stdout)
    return found
