"""Types of options: argparse shows the message of an ArgumentTypeError as it stands."""

import argparse
import math

LARGEST = 2**31 - 1  # token positions are 32-bit integers
MOST_TIMES = 10_000  # that anything is repeated: each is remembered


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def count(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def times(text: str) -> int:
    """How often something is done."""
    return _integer(text, 1, MOST_TIMES)


def seed(text: str) -> int:
    """Of random numbers: an integer of 64 bits, as the library has it."""
    return _integer(text, 0, 2**64 - 1)


def finite_float(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def positive_ints(text: str) -> list[int]:
    """Comma-separated integers of at least 1."""
    return [_integer(part, 1) for part in text.split(",")]


def counts(text: str) -> list[int]:
    """Comma-separated integers of at least 0."""
    return [_integer(part, 0) for part in text.split(",")]


_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def disk_size(text: str) -> int:
    """Bytes, with K, M, G or T for powers of 1,000: 20G."""
    digits = text.upper().removesuffix("B")
    number, suffix = (digits[:-1], digits[-1]) if digits[-1:].isalpha() else (digits, "")
    try:
        value = float(number) * _SUFFIXES[suffix]
    except (ValueError, KeyError):
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise argparse.ArgumentTypeError(f"expected a size like 500M or 20G, got {text!r}")
    return int(value)


def _integer(text: str, least: int, most: int = LARGEST) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
    if value > most:
        raise argparse.ArgumentTypeError(f"expected an integer of at most {most}, got {text!r}")
    return value
