"""The export, start to end: a model directory or a GGUF file in, one GGUF file with a scheme out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import gguf
import numpy as np
from gguf.gguf_writer import SHARD_NAME_FORMAT

from dca_export.export.convert import StreamedTensor
from dca_export.export.output_file import (
    check_apart,
    check_output,
    check_space,
    directory_beside,
    move_into_place,
)
from dca_export.export.plan import CopyPlan, DirectoryPlan, ExportOptions, plan_export
from dca_export.export.source_files import SourceFiles
from dca_export.export.summary import Summary
from dca_export.gguf.description import add_description
from dca_export.gguf.packing import check_packable

HEADER_RESERVE = 64 << 20  # bytes set aside for headers when room on the disk is checked

Progress = Callable[[int, int], Any]
"""Called with (bytes written, bytes in all) now and then."""


@dataclass(frozen=True)
class Exported:
    """The files that were written (more than one if they were split), and facts about them."""

    files: list[Path]
    summary: Summary


def export_model(
    source: Path,
    output: Path,
    options: ExportOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes `output` from `source`, a Hugging Face directory or a .gguf file.

    The file appears whole or not at all; with options.split_bytes it may become several, named as
    llama.cpp names them. Raises InputError (or OSError, such as for a full disk), also if the source changes
    meanwhile.
    """
    options = options or ExportOptions()
    check_output(output, force)
    check_apart(output, source)
    beside = [adapter.path for adapter in options.adapters]
    beside += [options.imatrix] if options.imatrix else []
    for path in beside:
        check_apart(output, path)
    read = SourceFiles.of(source, *beside)
    plan = plan_export(source, options)
    check_space(output, plan.summary.bytes + HEADER_RESERVE)
    if isinstance(plan, CopyPlan):
        files: _Files = _CopiedFiles(plan, options.split_bytes)
    else:
        files = _ConvertedFiles(plan, options.split_bytes)
    targets = [output.with_name(name) for name in files.names(output)]
    for target in targets:
        check_output(target, force)
        check_apart(target, source)
    with directory_beside(output) as directory:
        files.write(directory / output.name, progress or _silent)
        read.check()
        move_into_place({directory / target.name: target for target in targets}, force)
    return Exported(targets, plan.summary)


def _silent(done: int, total: int) -> None:
    pass


class _Files(Protocol):
    """The file, or the parts, of an export about to be written."""

    def names(self, path: Path) -> list[str]:
        """What the files are called if the whole is called `path`."""

    def write(self, path: Path, progress: Progress) -> None:
        """Writes them all, in the directory of `path`."""


class _CopiedFiles:
    """Tensors of GGUF files under other metadata."""

    def __init__(self, plan: CopyPlan, split_bytes: int) -> None:
        self._total = plan.summary.bytes
        self._parts = plan.copy.split(split_bytes) if split_bytes else [plan.copy]

    def names(self, path: Path) -> list[str]:
        count = len(self._parts)
        if count == 1:
            return [path.name]
        return [SHARD_NAME_FORMAT.format(path.stem, number + 1, count) for number in range(count)]

    def write(self, path: Path, progress: Progress) -> None:
        before = 0

        def advance(done: int, _: int) -> None:
            progress(before + done, self._total)

        for part, name in zip(self._parts, self.names(path), strict=True):
            with open(path.with_name(name), "wb") as file:
                part.write(file, advance)
            before += part.data_bytes


class _ConvertedFiles:
    """Tensors of a checkpoint, converted one after another while they are written."""

    def __init__(self, plan: DirectoryPlan, split_bytes: int) -> None:
        self._plan = plan
        self._writer = _prepared_writer(plan, split_bytes)

    def names(self, path: Path) -> list[str]:
        return [shard.name for shard in self._writer.format_shard_names(path)]

    def write(self, path: Path, progress: Progress) -> None:
        done = 0

        def advance(written: int) -> None:
            nonlocal done
            done += written
            progress(done, self._plan.summary.bytes)

        writer = self._writer
        try:
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in self._plan.tensors:
                streamed = StreamedTensor(tensor.planned, tensor.type, advance, tensor.repack, tensor.sums)
                writer.write_tensor_data(cast(np.ndarray, streamed))
        finally:
            writer.close()


def _prepared_writer(plan: DirectoryPlan, split_bytes: int) -> gguf.GGUFWriter:
    """A writer that knows everything but the tensors' data."""
    writer = gguf.GGUFWriter(None, plan.architecture, split_max_size=split_bytes)
    for tensor in plan.tensors:
        name, shape = tensor.planned.name, tensor.planned.shape
        writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.type)
    add_metadata(writer, plan)
    return writer


def add_metadata(writer: gguf.GGUFWriter, plan: DirectoryPlan) -> None:
    """Adds every entry of the file to a writer."""
    writer.add_type(gguf.GGUFType.MODEL)
    add_description(writer, plan.checkpoint.directory, plan.summary.parameters)
    for key, (value_type, value) in plan.entries.items():
        writer.add_key_value(key, value, value_type)
    writer.add_file_type(plan.recipe.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    plan.vocabulary.add_to(writer)
    for key, entry in writer.kv_data[0].items():
        check_packable(str(plan.checkpoint.directory), key, entry.type, entry.value, entry.sub_type)
