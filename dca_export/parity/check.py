"""Runs the comparison: one pass of the reference for each group, its parts beside it block by block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile
from dca_export.parity.agreement import Agreement, Comparison
from dca_export.parity.chosen import Chosen
from dca_export.parity.feeding import Feeder, chunk_borders
from dca_export.parity.plan import EXACT_ON_GPU, Group, plan, plan_methods
from dca_export.parity.tokens import token_ids
from dca_export.parity.tolerance import Tolerance, export_tolerance, tolerance_for
from dca_export.reference import borders
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_runtime import Model

Progress = Callable[[float, float, str], None]
"""(tokens done, tokens in all, what is running)"""
Found = Callable[["Part"], None]
"""takes each part as soon as it is known"""


class Reference(Protocol):
    """Says what the right logits are."""

    name: str
    """what it is and where it runs, for the report"""
    flash: bool
    """whether it also has a flash form in 16 bits"""

    def stream(self, ids: Sequence[int], group: Group) -> Iterator[np.ndarray]:
        """Logits (rows, n_vocab) float32, block by block."""
        ...


@dataclass(frozen=True)
class Part:
    """One way of feeding the tokens under one attention, compared and judged."""

    group: str
    fed: str
    cache_type: str
    """what the runtime kept keys and values in"""
    calls: int
    scheme: Scheme | None
    scheme_shrunk: bool
    """whether the scheme is not the file's own, so that enough chunk borders are crossed"""
    borders: int
    """chunk borders crossed"""
    agreement: Agreement
    tolerance: Tolerance
    failures: list[str]
    exemptions: list[str]
    """what was let pass though it is beyond a limit"""
    chosen: Chosen | None = None
    """of sparse prefill: what was read"""


@dataclass(frozen=True)
class Report:
    """What dca-parity found."""

    file: str
    reference: str
    device: str
    weights: str
    """the type of most of the file's weights"""
    cache_type: str
    text: str
    """where the token ids come from"""
    parts: list[Part]

    @property
    def passed(self) -> bool:
        return not any(part.failures for part in self.parts)

    @property
    def demanded(self) -> dict[str, str]:
        """The limits, by the type of the cache that they are for, of all groups."""
        texts: dict[str, dict[str, None]] = {}
        for part in self.parts:
            texts.setdefault(part.cache_type, {})[str(part.tolerance)] = None
        return {cache: "; or ".join(limits) for cache, limits in texts.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain values; every figure of every part and the verdict."""
        parts = [
            {**asdict(part), "top1": part.agreement.top1, "passed": not part.failures} for part in self.parts
        ]
        stated = {"parts": parts, "passed": self.passed, "demanded": self.demanded}
        return {**asdict(self), **stated}


def check(
    model: Model,
    reference: Reference,
    length: int,
    *,
    weights: str,
    against_original: bool = False,
    rounded: bool = True,
    cache_type: str | None = None,
    text: Path | None = None,
    methods: Sequence[str] | None = None,
    progress: Progress = lambda done, total, what: None,
    found: Found = lambda part: None,
) -> Report:
    """Compares an open model of dca_runtime with the reference over `length` tokens.

    `weights` is weight_type of the file. `cache_type` is by default f32 for f32 files on a CPU, else f16. A
    cache of 16 or 8 bits rounds by more than a rotation that is wrong in one place changes: on a CPU all is
    run with a cache in f32 too, where only the order of sums differs.

    `methods`: these instead of what the file states and plain attention, as plan_methods reads them.

    `against_original`: the reference is the original checkpoint, not the file's own weights: this judges what
    the export did to them, in one way of feeding only and with the cache that rounds least, and not the
    runtime. `rounded`: whether the export had to round the checkpoint's values.

    Raises InputError, and DcaError from the runtime.
    """
    gpu = model.info.device.startswith("cuda")
    device, least = model.info.device, "f16" if gpu else "f32"
    cache_type = cache_type or (least if weights == "f32" or against_original else "f16")
    if against_original:
        tolerances = {cache_type: export_tolerance(weights, device, cache_type, rounded)}
    else:
        caches = [cache_type] if gpu else list(dict.fromkeys((least, cache_type)))
        tolerances = {cache: tolerance_for(weights, device, cache, _experts(model)) for cache in caches}
    ids, source = token_ids(model, length, text)
    scheme = None if model.info.scheme is None else Scheme(*model.info.scheme)
    string = None if model.info.border is None else borders.named(model.info.border)
    if methods:
        groups = plan_methods(length, methods, scheme, model.info.n_vocab, gpu)
    else:
        assert string is None or isinstance(string, borders.String)
        groups = plan(length, scheme, model.info.n_vocab, gpu, reference.flash, string)
    if against_original:  # how tokens are fed is the runtime's affair, judged against the file's own weights
        groups = [replace(group, feeds=dict([next(iter(group.feeds.items()))])) for group in groups]
    total, done = sum(group.length for group in groups), 0
    parts: list[Part] = []
    for group in groups:
        before, limits = done, tolerances
        if group.precision == "flash":
            own = own_rounding(reference, group, ids[:EXACT_ON_GPU])
            limits = {cache: limit.beside(own) for cache, limit in tolerances.items()}

        def advance(tokens: int, before: int = before, title: str = group.title) -> None:
            progress(before + tokens, total, title)

        for part in run_group(model, reference, group, ids[: group.length], limits, advance):
            parts.append(part)
            found(part)
        done += group.length
    return Report(
        file=str(model.path),
        reference=reference.name,
        device=model.info.device,
        weights=weights,
        cache_type=cache_type,
        text=source,
        parts=parts,
    )


def _experts(model: Model) -> bool:
    """Whether feed-forwards are mixtures, which pick others for the smallest reason."""
    return any(key.endswith(".expert_count") and value > 0 for key, value in model.metadata.items())


def own_rounding(reference: Reference, group: Group, ids: list[int]) -> Agreement:
    """How far the reference's flash form is from its exact one on these tokens, as the group attends."""
    exact = np.concatenate(list(reference.stream(ids, replace(group, precision="exact"))))
    comparison, start = Comparison(), 0
    next_ids = np.array([*ids[1:], -1], np.int64)
    for rows in reference.stream(ids, replace(group, precision="flash")):
        positions = np.arange(start, start + len(rows))
        comparison.add(positions, exact[positions], rows, next_ids[positions])
        start += len(rows)
    return comparison.result()


def run_group(
    model: Model,
    reference: Reference,
    group: Group,
    ids: list[int],
    tolerances: dict[str, Tolerance],
    advance: Callable[[int], None],
) -> list[Part]:
    """The group's parts: every way of feeding with every cache that has a tolerance."""
    ways = [(cache, name) for cache in tolerances for name in group.feeds]
    comparisons = {way: Comparison() for way in ways}
    next_ids = np.array([*ids[1:], -1], np.int64)
    with contextlib.ExitStack() as stack:
        feeders = {}
        for cache, name in ways:
            session = model.session(context=len(ids), cache_type=cache, **group.session_options)
            feeders[cache, name] = Feeder(stack.enter_context(session), ids, group.feeds[name])
        start = 0
        for expected in _closing(reference.stream(ids, group), stack):
            if expected.shape[1] != model.info.n_vocab:
                raise InputError(
                    f"the reference has a vocabulary of {expected.shape[1]} tokens, {model.path} one of "
                    f"{model.info.n_vocab}"
                )
            stop = start + len(expected)
            for way, feeder in feeders.items():
                positions, found = feeder.take(stop)
                if len(positions):
                    rows = expected[positions - start]
                    comparisons[way].add(positions, rows, found, next_ids[positions])
            start = stop
            advance(stop)
    if start != len(ids):
        raise InputError(f"the reference gave logits for {start} of {len(ids)} tokens")
    results = {way: comparison.result() for way, comparison in comparisons.items()}
    return [
        Part(
            group=group.title,
            fed=name,
            cache_type=cache,
            calls=len(group.feeds[name]),
            scheme=group.scheme,
            scheme_shrunk=group.override,
            borders=len(chunk_borders(group.length, group.scheme)),
            agreement=agreement,
            tolerance=tolerances[cache],
            failures=tolerances[cache].failures(agreement),
            exemptions=tolerances[cache].exemptions(agreement),
        )
        for (cache, name), agreement in results.items()
    ]


def _closing(stream: Iterator[np.ndarray], stack: contextlib.ExitStack) -> Iterable[np.ndarray]:
    """The stream, closed with the stack: the model behind it is given back even if a comparison fails."""
    close = getattr(stream, "close", None)
    if close is not None:
        stack.callback(close)
    return stream


def weight_type(file: GgufFile) -> str:
    """The type that most of the values in matrices are stored in, "q8_0"."""
    values: dict[str, int] = {}
    for tensor in file.tensors:
        if len(tensor.shape) > 1:
            name = tensor.type.name.lower()
            values[name] = values.get(name, 0) + tensor.n_values
    if not values:
        raise InputError(f"{file.path}: has no matrices")
    return max(values, key=lambda name: values[name])
