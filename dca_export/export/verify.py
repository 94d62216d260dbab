"""Compares every tensor of a GGUF file with the source it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dca_export.errors import InputError
from dca_export.export.convert import float32, read_chunks
from dca_export.export.plan import CopyPlan, DirectoryPlan, ExportOptions, plan_export
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.gguf.file import GgufFile, TensorInfo, open_parts
from dca_export.gguf.scheme_keys import read_scheme
from dca_export.model.layout import PlannedTensor
from dca_runtime import blocks

T = GGMLQuantizationType

# The largest error a tensor may have: root mean square, relative to that of the source's values. Normally
# distributed values come out at a half to a third of it; a tensor that was permuted, swapped or scaled by
# mistake has about 1.
MOST_ERROR = {
    T.F32: 0.0,
    T.F16: 1e-3,
    T.BF16: 6e-3,
    T.Q8_0: 0.02,
    T.Q6_K: 0.06,
    T.Q5_K: 0.12,
    T.Q5_0: 0.15,
    T.Q5_1: 0.15,
    T.Q4_K: 0.25,
    T.IQ4_NL: 0.25,
    T.Q4_0: 0.3,
    T.Q4_1: 0.3,
    T.Q3_K: 0.5,
    T.Q2_K: 0.7,
}
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

    tensors: int = 0
    values: int = 0
    types: dict[str, TypeReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, info: TensorInfo, error: float) -> None:
        """Counts a tensor whose relative error is `error`."""
        self.tensors += 1
        self.values += info.n_values
        found = self.types.setdefault(info.type.name, TypeReport())
        found.tensors += 1
        found.worst = max(found.worst, error)


def verify(output: Path, source: Path, progress: Progress | None = None) -> Report:
    """Reads every tensor of `output` again and compares it with `source`.

    From a directory: the values, to within what the type can hold, and every hyperparameter. From another
    GGUF file: every byte. Raises InputError if one of the two cannot be read.
    """
    parts = open_parts(output)
    scheme = read_scheme(parts[0], str(output))
    options = SchemeOptions(dca=False)
    if scheme is not None:
        options = SchemeOptions(True, scheme.pretraining_length, scheme.chunk_size, scheme.local_window)
    plan = plan_export(source, ExportOptions(scheme=options))
    found = {tensor.name: _Found(part, tensor) for part in parts for tensor in part.tensors}
    total = sum(entry.info.nbytes for entry in found.values())
    report, done = Report(), 0
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
    if isinstance(plan, DirectoryPlan):
        report.problems += _different_entries(plan, parts[0])
    return report


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
    if kind not in MOST_ERROR:
        report.problems.append(f"tensor {planned.name} is {kind.name}, a type that is not written here")
        return
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    at, error, power = 0, 0.0, 0.0
    for tensor, rows in read_chunks(planned):
        wanted = float32(rows, tensor.dtype)
        nbytes = wanted.size // block_values * block_bytes
        values = blocks.decode(kind, found.read(at, nbytes).reshape(wanted.shape[0], -1))
        error += float(np.square(values - wanted, dtype=np.float64).sum())
        power += float(np.square(wanted, dtype=np.float64).sum())
        at += nbytes
    relative = math.sqrt(error / power) if power else math.sqrt(error)
    report.add(found.info, relative)
    if not relative <= MOST_ERROR[kind]:
        report.problems.append(
            f"tensor {planned.name} ({kind.name}) is off by {relative:.3g} of its size, "
            f"at most {MOST_ERROR[kind]} is due to its type"
        )


def _compare_bytes(source: _Found, found: _Found, report: Report) -> None:
    if found.info.type != source.info.type:
        report.problems.append(
            f"tensor {source.info.name} is {found.info.type.name}, not {source.info.type.name}"
        )
        return
    same = all(
        np.array_equal(source.read(at, step), found.read(at, step))
        for at in range(0, source.info.nbytes, COMPARED_BYTES)
        for step in [min(COMPARED_BYTES, source.info.nbytes - at)]
    )
    report.add(found.info, 0.0)
    if not same:
        report.problems.append(f"tensor {source.info.name} has other bytes than in the source")


def _different_entries(plan: DirectoryPlan, file: GgufFile) -> list[str]:
    """Hyperparameters that the file states otherwise than the source implies."""
    problems = []
    for key, (_, value) in plan.entries.items():
        stated = file.get(key)
        same = stated == (np.float32(value) if isinstance(value, float) else value)
        if not same:
            problems.append(f"{key} is {stated!r}, the source implies {value!r}")
    return problems
