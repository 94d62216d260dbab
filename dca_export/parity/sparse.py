"""Is sparse prefill right, by pages or by stated budgets?

The attention, given what the runtime chose; and what it chose, but for ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dca_export.errors import InputError
from dca_export.gguf.budget_keys import read_budgets
from dca_export.parity.check import Found, Part, Progress, Report, run_group
from dca_export.parity.chosen import TIE, TIE_ON_CARDS, Chosen
from dca_export.parity.plan import Group, plan
from dca_export.parity.tokens import token_ids
from dca_export.parity.tolerance import tolerance_for
from dca_export.reference.sparse import DENSE_TAIL, PAGE, Block, Choices, SparsePrefill
from dca_export.reference.stated import Budget, Lines, StatedPrefill, Unit
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_export.parity.torch_reference import TorchReference
    from dca_runtime import Model, Session
    from dca_runtime.prefill import LineSelection, Prefill, Selection

SPARSE_FROM = 4096  # tokens: where sparse prefill sets in unless it is told (dca.h)


def check_sparse(
    model: Model,
    reference: TorchReference,
    length: int,
    prefill: str,
    *,
    weights: str,
    cache_type: str | None = None,
    text: Path | None = None,
    progress: Progress = lambda done, total, what: None,
    found: Found = lambda part: None,
) -> Report:
    """As ``check`` with ``prefill`` ("sparse:0.1", "sparse:0.1:512", "stated"), against its own weights.

    Every way of feeding has a pass of the reference of its own, which reads what the runtime read there. What
    was chosen is judged with a cache in f32, on a card, which has none, in 16 bits: codes of fewer move the
    weights of pages and keys by more than any tie. Raises InputError, and DcaError from the runtime.
    """
    from dca_runtime import prefill as modes

    mode = modes.parse(prefill)
    choosing = _Lines(model, length) if mode.kind == "stated" else _Pages(mode, length)
    gpu = model.info.device.startswith("cuda")
    least = "f16" if gpu else "f32"
    cache_type = cache_type or (least if weights == "f32" else "f16")
    judged, tie = judged_with(gpu, cache_type)
    caches = list(dict.fromkeys((judged, cache_type)))
    ids, source = token_ids(model, length, text)
    scheme = None if model.info.scheme is None else Scheme(*model.info.scheme)
    groups = [
        replace(group, title=f"{group.title}, {mode.name}", prefill=prefill, feeds={name: group.feeds[name]})
        for group in plan(length, scheme, model.info.n_vocab, gpu=False, flash=False)
        if group.scheme is None or group.scheme.chunk_size >= choosing.least_chunk
        for name in list(group.feeds)[:2]
        if name != "token by token"  # those read everything
    ]
    parts: list[Part] = []
    total = len(groups) * len(caches) * length
    for group in groups:
        for cache in caches:
            sparse, density = _chosen(model, group, ids, cache, choosing)
            done = len(parts) * length

            def advance(tokens: int, done: int = done, title: str = group.title) -> None:
                progress(done + tokens, total, title)

            tolerances = {cache: tolerance_for(weights, model.info.device, cache)}
            (part,) = run_group(model, _Given(reference, sparse), group, ids, tolerances, advance)
            margin = max((each.margin for each in sparse.disagreements), default=0.0)
            chosen = Chosen(sparse.compared, len(sparse.disagreements), margin, density)
            failures = part.failures + chosen.failures(tie if cache == judged else None)
            parts.append(replace(part, failures=failures, chosen=chosen))
            found(parts[-1])
    return Report(
        file=str(model.path),
        reference=reference.name,
        device=model.info.device,
        weights=weights,
        cache_type=caches[-1],
        text=source,
        parts=parts,
    )


def judged_with(gpu: bool, cache_type: str) -> tuple[str, float]:
    """The cache over which choices are judged, and how far from the threshold a tie may be there."""
    if gpu:
        return ("bf16" if cache_type == "bf16" else "f16"), TIE_ON_CARDS
    return "f32", TIE


class _Pages:
    """Sparse prefill by pages."""

    least_chunk = PAGE

    def __init__(self, mode: Prefill, length: int) -> None:
        self._mode, self._length = mode, length
        self._start = SPARSE_FROM if mode.start is None else mode.start
        least = self._start + DENSE_TAIL + PAGE
        if length < least:
            raise InputError(
                f"--length is {length}, must be at least {least}: sparse prefill sets in at token "
                f"{self._start} and leaves the last {DENSE_TAIL} dense; --prefill sparse:ALPHA:FROM sets in "
                "earlier"
            )

    def given(self, session: Session, layers: int) -> SparsePrefill:
        """What the session has chosen, for the reference to read."""
        chosen = by_layer(session.selection(), layers)
        return SparsePrefill(self._mode.alpha, self._start, self._length, chosen)


class _Lines:
    """Budgets of columns and diagonals that the file states."""

    least_chunk = 1

    def __init__(self, model: Model, length: int) -> None:
        found = read_budgets(model.metadata, str(model.path))
        if found is None:
            raise InputError(f"{model.path}: states no budgets; --prefill sparse:ALPHA needs none")
        self._found, self._length = found, length
        if length < found.threshold + PAGE:
            raise InputError(
                f"--length is {length}, must be at least {found.threshold + PAGE}: the file's budgets set in "
                f"at token {found.threshold}"
            )

    def given(self, session: Session, layers: int) -> StatedPrefill:
        """As _Pages.given."""
        budgets = [
            [Budget(*each) for each in zip(*layer, strict=True)]
            for layer in zip(self._found.columns, self._found.diagonals, strict=True)
        ]
        chosen = lines_by_layer(session.line_selection(), layers)
        return StatedPrefill(
            budgets, self._found.last_queries, self._found.threshold, self._length, given=chosen
        )


class _Given:
    """A reference that reads the pages it is told."""

    flash = False

    def __init__(self, reference: TorchReference, sparse: SparsePrefill | StatedPrefill) -> None:
        self.name = reference.name
        self._stream: Callable[..., Iterator[np.ndarray]] = reference.stream
        self._sparse = sparse

    def stream(self, ids: Sequence[int], group: Group) -> Iterator[np.ndarray]:
        return self._stream(ids, group, self._sparse)


def _chosen(
    model: Model, group: Group, ids: Sequence[int], cache_type: str, choosing: _Pages | _Lines
) -> tuple[SparsePrefill | StatedPrefill, float]:
    """What the runtime reads when it is fed as the group says, and its mean density."""
    (pieces,) = group.feeds.values()
    options = group.session_options | {"record_selection": True}
    with model.session(context=len(ids), cache_type=cache_type, **options) as session:
        fed = 0
        for piece in pieces:
            session.eval(ids[fed : fed + piece.tokens], all_logits=True)
            fed += piece.tokens
        given, density = choosing.given(session, model.info.n_layers), session.info.density
    assert density is not None
    return given, float(np.nanmean(density))


def by_layer(found: Sequence[Selection], layers: int) -> list[Choices]:
    """The runtime's list as the reference takes it."""
    gathered: list[dict[Block, list[frozenset[tuple[int, str]]]]] = [{} for _ in range(layers)]
    for each in found:  # ordered by layer, then head
        gathered[each.layer].setdefault(Block(each.start, each.stop), []).append(frozenset(each.pages))
    return [Choices(blocks) for blocks in gathered]


def lines_by_layer(found: Sequence[LineSelection], layers: int) -> list[dict[Unit, list[Lines]]]:
    """The same of columns and diagonals."""
    gathered: list[dict[Unit, list[Lines]]] = [{} for _ in range(layers)]
    for each in found:
        lines = Lines(frozenset(each.columns), frozenset(each.diagonals))
        gathered[each.layer].setdefault(Unit(each.start, each.stop), []).append(lines)
    return gathered
