"""Is sparse prefill right? The attention, given what the runtime chose; and what it chose, but for ties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dca_export.errors import InputError
from dca_export.parity.check import Part, Progress, Report, run_group
from dca_export.parity.chosen import TIE, TIE_ON_CARDS, Chosen
from dca_export.parity.plan import Group, plan
from dca_export.parity.tokens import token_ids
from dca_export.parity.tolerance import tolerance_for
from dca_export.reference.sparse import DENSE_TAIL, PAGE, Block, Choices, SparsePrefill
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_export.parity.torch_reference import TorchReference
    from dca_runtime import Model
    from dca_runtime.prefill import Selection

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
) -> Report:
    """As ``check`` with ``prefill`` ("sparse:0.1", "sparse:0.1:512"), against the file's own weights.

    Every way of feeding has a pass of the reference of its own, which reads what the runtime read there. What
    was chosen is judged with a cache in f32; on a card, which has none, with the one given. Raises
    InputError, and DcaError from the runtime.
    """
    from dca_runtime import prefill as modes

    mode = modes.parse(prefill)
    start = SPARSE_FROM if mode.start is None else mode.start
    if length < start + DENSE_TAIL + PAGE:
        raise InputError(
            f"--length is {length}, must be at least {start + DENSE_TAIL + PAGE}: sparse prefill sets in at "
            f"token {start} and leaves the last {DENSE_TAIL} dense; --prefill sparse:ALPHA:FROM sets in "
            "earlier"
        )
    gpu = model.info.device.startswith("cuda")
    least = "f16" if gpu else "f32"
    cache_type = cache_type or (least if weights == "f32" else "f16")
    caches = [cache_type] if gpu else list(dict.fromkeys((least, cache_type)))
    ids, source = token_ids(model, length, text)
    scheme = None if model.info.scheme is None else Scheme(*model.info.scheme)
    groups = [
        replace(group, title=f"{group.title}, {mode.name}", prefill=prefill, feeds={name: group.feeds[name]})
        for group in plan(length, scheme, model.info.n_vocab, gpu=False, flash=False)
        if group.scheme is None or group.scheme.chunk_size >= PAGE
        for name in list(group.feeds)[:2]
        if name != "token by token"  # those read everything
    ]
    parts: list[Part] = []
    total = len(groups) * len(caches) * length
    for group in groups:
        for cache in caches:
            given, density = _chosen(model, group, ids, cache)
            sparse = SparsePrefill(mode.alpha, start, length, given)
            done = len(parts) * length

            def advance(tokens: int, done: int = done, title: str = group.title) -> None:
                progress(done + tokens, total, title)

            tolerances = {cache: tolerance_for(weights, model.info.device, cache)}
            (part,) = run_group(model, _Given(reference, sparse), group, ids, tolerances, advance)
            margin = max((each.margin for each in sparse.disagreements), default=0.0)
            chosen = Chosen(sparse.compared, len(sparse.disagreements), margin, density)
            tie = TIE_ON_CARDS if gpu else TIE if cache == "f32" else None
            failures = part.failures + chosen.failures(tie)
            parts.append(replace(part, failures=failures, chosen=chosen))
    return Report(
        file=str(model.path),
        reference=reference.name,
        device=model.info.device,
        weights=weights,
        cache_type=caches[-1],
        text=source,
        parts=parts,
    )


class _Given:
    """A reference that reads the pages it is told."""

    flash = False

    def __init__(self, reference: TorchReference, sparse: SparsePrefill) -> None:
        self.name = reference.name
        self._stream: Callable[..., Iterator[np.ndarray]] = reference.stream
        self._sparse = sparse

    def stream(self, ids: Sequence[int], group: Group) -> Iterator[np.ndarray]:
        return self._stream(ids, group, self._sparse)


def _chosen(model: Model, group: Group, ids: Sequence[int], cache_type: str) -> tuple[list[Choices], float]:
    """What the runtime reads when it is fed as the group says, by layer; and its mean density."""
    (pieces,) = group.feeds.values()
    options = group.session_options | {"record_selection": True}
    with model.session(context=len(ids), cache_type=cache_type, **options) as session:
        fed = 0
        for piece in pieces:
            session.eval(ids[fed : fed + piece.tokens], all_logits=True)
            fed += piece.tokens
        found, density = session.selection(), session.info.density
    assert density is not None
    return by_layer(found, model.info.n_layers), float(np.nanmean(density))


def by_layer(found: Sequence[Selection], layers: int) -> list[Choices]:
    """The runtime's list as the reference takes it."""
    gathered: list[dict[Block, list[frozenset[tuple[int, str]]]]] = [{} for _ in range(layers)]
    for each in found:  # ordered by layer, then head
        gathered[each.layer].setdefault(Block(each.start, each.stop), []).append(frozenset(each.pages))
    return [Choices(blocks) for blocks in gathered]
