"""Compares every tensor and every entry of a GGUF file with the source it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dca_export.adapters.changes import AdapterOption
from dca_export.checkpoint.tensors import open_checkpoint
from dca_export.errors import InputError
from dca_export.export.gguf_source import planned_of
from dca_export.export.plan import CopyPlan, DirectoryPlan, ExportOptions, plan_export
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.verify.accounting import account
from dca_export.export.verify.entries import compare_entries, entries_of
from dca_export.export.verify.values import TYPES, compare_values
from dca_export.export.weighting import FILE_KEY
from dca_export.gguf.file import GgufFile, TensorInfo, open_parts
from dca_export.gguf.scheme_keys import read_border, read_scheme
from dca_export.model.layout import PlannedTensor
from dca_export.scheme import Scheme, StringBorder

COMPARED_BYTES = 16 << 20  # of a copied tensor at a time

Progress = Callable[[int, int], Any]


@dataclass
class TypeReport:
    """All tensors of one type: how many, and the largest relative error among them."""

    tensors: int = 0
    worst: float = 0.0


@dataclass
class Report:
    """What the comparison found; `problems` are whole sentences, none if the file is right."""

    scheme: Scheme | None = None
    """the file's own; None: it states none"""
    border: StringBorder | None = None
    """STRING's, in place of a scheme"""
    tensors: int = 0
    values: int = 0
    types: dict[str, TypeReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    weighted: bool = False
    """whether the file says it was made with an imatrix"""
    notes: list[str] = field(default_factory=list)
    """differences that are none of the model's: its name, what of the source no file needs"""

    def add(self, info: TensorInfo, error: float) -> None:
        """Counts a tensor whose relative error is `error`."""
        self.tensors += 1
        self.values += info.n_values
        found = self.types.setdefault(info.type.name, TypeReport())
        found.tensors += 1
        found.worst = max(found.worst, error)


def verify(
    output: Path,
    source: Path,
    progress: Progress | None = None,
    expected: SchemeOptions | None = None,
    adapters: tuple[AdapterOption, ...] = (),
) -> Report:
    """Reads every tensor and entry of `output` again and compares them with `source`.

    From a directory: F32, F16 and BF16 must be the values rounded once, blocks as near as their format gets
    (block_bounds.py), and every row of every tensor of the source must be there. From another GGUF file:
    every byte, or as near as another type gets. `expected`: the scheme that the file must have is the one an
    export with these options chooses; None: whatever it states. `adapters`: those that were merged. Raises
    InputError if something cannot be read.
    """
    parts = open_parts(output)
    scheme = read_scheme(parts[0], str(output))
    border = read_border(parts[0], str(output))
    plan = plan_export(source, ExportOptions(scheme=expected or _options(scheme, border), adapters=adapters))
    found = {tensor.name: _Found(part, tensor) for part in parts for tensor in part.tensors}
    total = sum(entry.info.nbytes for entry in found.values())
    report, done = Report(scheme, border, weighted=FILE_KEY in parts[0]), 0
    for name, shape, compare in _expected(plan):
        if name not in found:
            report.problems.append(f"tensor {name} is missing")
            continue
        entry = found.pop(name)
        if entry.info.shape != shape:
            report.problems.append(f"tensor {name} has shape {list(entry.info.shape)}, not {list(shape)}")
        else:
            compare(entry, report)
        done += entry.info.nbytes
        if progress is not None:
            progress(done, total)
    report.problems += [f"tensor {name} is in no source" for name in found]
    chosen = plan.summary.scheme.choice
    if expected is not None and (chosen.scheme, chosen.border) != (scheme, border):
        wanted = scheme_text(chosen.scheme, chosen.border)
        report.problems.append(f"the scheme is {scheme_text(scheme, border)}, expected {wanted}")
    if isinstance(plan, DirectoryPlan):
        planned = [tensor.planned for tensor in plan.tensors]
        tensors = open_checkpoint(source).tensors
        layers = int(plan.entries[f"{plan.architecture}.block_count"][1])
        counted = account(plan.architecture, layers, planned, tensors)
        entries = compare_entries(parts[0], entries_of(plan))
    else:
        counted = [], []
        entries = compare_entries(parts[0], open_parts(source)[0])
    report.problems += counted[0] + entries[0]
    report.notes += counted[1] + entries[1]
    return report


def scheme_text(scheme: Scheme | None, border: StringBorder | None = None) -> str:
    """The numbers of a scheme or of STRING as people read them, "none" if there is neither."""
    if border is not None:
        return f"STRING: border {border.border:,}, local_window {border.local_window:,}"
    if scheme is None:
        return "none (plain attention)"
    scaled = f", logit_scale {scheme.logit_scale:g} beyond {scheme.logit_scale_length:,}"
    return (
        f"chunk_size {scheme.chunk_size:,}, local_window {scheme.local_window:,}, pretraining_length "
        f"{scheme.pretraining_length:,}" + (scaled if scheme.logit_scale else "")
    )


def _options(scheme: Scheme | None, border: StringBorder | None) -> SchemeOptions:
    """Options of an export that chooses this scheme or border."""
    if border is not None:
        return SchemeOptions(string=border)
    if scheme is None:
        return SchemeOptions(dca=False)
    return SchemeOptions(True, scheme.pretraining_length, scheme.chunk_size, scheme.local_window)


@dataclass(frozen=True)
class _Found:
    """A tensor of the file under test."""

    file: GgufFile
    info: TensorInfo

    def read(self, first_byte: int, nbytes: int) -> np.ndarray:
        data = np.fromfile(self.file.path, np.uint8, nbytes, offset=self.info.start + first_byte)
        if data.size != nbytes:
            raise InputError(f"{self.file.path}: became shorter while it was read")
        return data


Compare = Callable[[_Found, Report], None]


def _expected(plan: DirectoryPlan | CopyPlan) -> Iterator[tuple[str, tuple[int, ...], Compare]]:
    """Name and shape of each tensor there should be, and what compares it."""
    if isinstance(plan, DirectoryPlan):
        for tensor in plan.tensors:
            yield tensor.planned.name, tensor.planned.shape, partial(_compare_values, tensor.planned)
    else:
        for file, info in plan.copy.tensors:
            yield info.name, info.shape, partial(_compare_bytes, _Found(file, info))


def _compare_values(planned: PlannedTensor, found: _Found, report: Report) -> None:
    kind = found.info.type
    if kind not in TYPES:
        report.problems.append(f"tensor {planned.name} is {kind.name}, a type that is not written here")
        return
    error, problem = compare_values(planned, kind, found.read, report.weighted)
    report.add(found.info, error)
    if problem is not None:
        report.problems.append(f"tensor {planned.name} ({kind.name}): {problem}")


def _compare_bytes(source: _Found, found: _Found, report: Report) -> None:
    if found.info.type != source.info.type:  # quantised anew
        return _compare_values(planned_of(source.file, source.info), found, report)
    same = all(
        np.array_equal(source.read(at, step), found.read(at, step))
        for at in range(0, source.info.nbytes, COMPARED_BYTES)
        for step in [min(COMPARED_BYTES, source.info.nbytes - at)]
    )
    report.add(found.info, 0.0)
    if not same:
        report.problems.append(f"tensor {source.info.name} has other bytes than in the source")
