"""The export, start to end: a model directory or a GGUF file in, one GGUF file with a scheme out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from dca_export.architectures import Dimensions, find_architecture, known_gguf_names
from dca_export.checkpoint import Checkpoint, open_checkpoint
from dca_export.convert import StreamedTensor, check_readable, tensor_bytes
from dca_export.errors import InputError
from dca_export.fp8 import dequantised
from dca_export.gguf_file import Copy, GgufFile, is_gguf, packed_value
from dca_export.hyperparameters import Entries, model_entries, read_dimensions
from dca_export.layout import PlannedTensor, generated_tensor, plan_tensors
from dca_export.metadata import read_scheme, scheme_entries, scheme_keys
from dca_export.output_file import check_output, check_space, written_beside
from dca_export.recipes import RECIPES, Recipe, tensor_type
from dca_export.rope import context_length, read_rope, sliding_window, trained_length
from dca_export.scheme_choice import (
    SchemeChoice,
    SchemeOptions,
    choose_scheme,
    stated_by_config,
    trained_length_of_gguf,
)
from dca_export.summary import Summary, count_types
from dca_export.vocab import Vocabulary, read_vocabulary

AUTO = "auto"
HEADER_RESERVE = 64 << 20  # bytes set aside for the header when room on the disk is checked

Progress = Callable[[int, int], Any]
"""Called with (bytes written, bytes in all) now and then."""


@dataclass(frozen=True)
class ExportOptions:
    """`outtype`: "auto" or a name of recipes.RECIPES."""

    outtype: str = AUTO
    scheme: SchemeOptions = SchemeOptions()


@dataclass(frozen=True)
class Plan:
    """A model directory that has been understood; nothing of its tensors has been read."""

    checkpoint: Checkpoint
    recipe: Recipe
    entries: Entries
    tensors: list[tuple[PlannedTensor, GGMLQuantizationType]]
    vocabulary: Vocabulary
    summary: Summary
    architecture: str


@dataclass(frozen=True)
class CopyPlan:
    """A GGUF file that is to get other DCA keys."""

    copy: Copy
    summary: Summary


def export_model(
    source: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Writes `output` from `source`, a Hugging Face directory or a .gguf file.

    The file appears whole or not at all. Raises InputError (or OSError, such as for a full disk).
    """
    check_output(output, force)
    plan = plan_export(source, options)
    check_space(output, plan.summary.bytes + HEADER_RESERVE)
    with written_beside(output) as partial:
        if isinstance(plan, CopyPlan):
            with open(partial, "wb") as file:
                plan.copy.write(file, progress or _silent)
        else:
            _write(plan, partial, progress or _silent)
    return plan.summary


def plan_export(source: Path, options: ExportOptions) -> Plan | CopyPlan:
    """Reads configuration, headers and tokenizer of `source` and decides on everything. Raises InputError."""
    if is_gguf(source):
        return _plan_copy(source, options)
    return _plan_directory(dequantised(open_checkpoint(source)), options)


def _silent(done: int, total: int) -> None:
    pass


def _plan_directory(checkpoint: Checkpoint, options: ExportOptions) -> Plan:
    config = checkpoint.config
    architecture = find_architecture(config)
    dimensions = read_dimensions(config, architecture)
    stated, notes = stated_by_config(config)
    trained = trained_length(config)
    choice = choose_scheme(options.scheme, trained, stated)
    positions = choice.scheme.pretraining_length if choice.scheme else trained.tokens
    rope = read_rope(config, dimensions.head_dim, options.scheme.pretraining_length or positions)
    tensors = plan_tensors(checkpoint, architecture, dimensions)
    for planned in tensors:
        for piece in planned.pieces:
            check_readable(piece.tensor)
    parameters = sum(planned.n_values for planned in tensors)
    recipe = _recipe(options.outtype, tensors)
    generated = [generated_tensor(name, values, checkpoint) for name, values in rope.tensors.items()]
    typed, fallen = _typed(recipe, generated + tensors, dimensions)
    vocabulary = read_vocabulary(checkpoint.directory, dimensions.vocab)
    prefix = architecture.name
    entries = model_entries(config, architecture, dimensions, _context(checkpoint, stated))
    entries |= {f"{prefix}.{key}": value for key, value in rope.entries.items()}
    entries |= scheme_entries(prefix, choice.scheme)
    if window := sliding_window(config):
        notes.append(f"sliding_window {window} is not used: every layer attends to everything before it")
    summary = Summary(
        prefix,
        parameters,
        sum(tensor_bytes(planned.shape, kind) for planned, kind in typed),
        count_types(kind for _, kind in typed),
        trained,
        choice,
        notes + fallen + vocabulary.notes,
    )
    return Plan(checkpoint, recipe, entries, typed, vocabulary, summary, prefix)


def _context(checkpoint: Checkpoint, stated: SchemeChoice | None) -> int:
    """What `{architecture}.context_length` says: the length that plain attention was trained for.

    Models that state a scheme give the length it reaches as max_position_embeddings.
    """
    context = context_length(checkpoint.config).tokens
    if stated is not None and stated.scheme is not None and stated.scheme.logit_scale_length:
        return min(context, stated.scheme.logit_scale_length)
    return context


def _recipe(outtype: str, tensors: list[PlannedTensor]) -> Recipe:
    """The recipe asked for; "auto" keeps the 16-bit type of the first matrix, and makes others F16."""
    if outtype == AUTO:
        first = next(planned for planned in tensors if len(planned.shape) > 1)
        outtype = "bf16" if first.pieces[0].tensor.dtype == "BF16" else "f16"
    if outtype not in RECIPES:
        raise InputError(f"outtype {outtype} is not known; known are {', '.join(RECIPES)} and {AUTO}")
    return RECIPES[outtype]


def _typed(
    recipe: Recipe, tensors: list[PlannedTensor], dimensions: Dimensions
) -> tuple[list[tuple[PlannedTensor, GGMLQuantizationType]], list[str]]:
    """Each tensor with its type, and notes on those whose rows the recipe's own type does not fit."""
    tied = all(planned.name != "output.weight" for planned in tensors)
    typed, fallen = [], []
    for planned in tensors:
        choice = tensor_type(recipe, planned.name, planned.shape, dimensions, tied, planned.f32)
        typed.append((planned, choice.type))
        if choice.instead_of is not None:
            fallen.append((choice.instead_of, choice.type, planned))
    notes = []
    for wanted, kind in dict.fromkeys((wanted, kind) for wanted, kind, _ in fallen):
        alike = [planned for w, k, planned in fallen if (w, k) == (wanted, kind)]
        are = "tensor is" if len(alike) == 1 else "tensors are"
        notes.append(
            f"{len(alike)} {are} {kind.name} instead of {wanted.name}, whose blocks do not divide rows of "
            f"{alike[0].shape[-1]} ({alike[0].name})"
        )
    return typed, notes


def _write(plan: Plan, path: Path, progress: Progress) -> None:
    writer = _prepared_writer(plan)
    total, done = plan.summary.bytes, 0

    def advance(written: int) -> None:
        nonlocal done
        done += written
        progress(done, total)

    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for planned, kind in plan.tensors:
            streamed = StreamedTensor(planned, kind, advance)
            writer.write_tensor_data(cast(np.ndarray, streamed))
    finally:
        writer.close()


def _prepared_writer(plan: Plan) -> gguf.GGUFWriter:
    """A writer that knows everything but the tensors' data."""
    writer = gguf.GGUFWriter(None, plan.architecture)
    for planned, kind in plan.tensors:
        nbytes = tensor_bytes(planned.shape, kind)
        writer.add_tensor_info(planned.name, planned.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    writer.add_type(gguf.GGUFType.MODEL)
    _describe(writer, plan)
    for key, (value_type, value) in plan.entries.items():
        writer.add_key_value(key, value, value_type)
    writer.add_file_type(plan.recipe.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    plan.vocabulary.add_to(writer)
    return writer


def _describe(writer: gguf.GGUFWriter, plan: Plan) -> None:
    """Name, licence, generation defaults and the like, from the model card and generation_config.json.

    None of it is needed to run the model: files that gguf's reader of them cannot take are passed over.
    """
    directory = plan.checkpoint.directory.resolve()
    logging.getLogger("gguf.metadata").setLevel(logging.ERROR)
    try:
        description = gguf.Metadata.load(None, directory, None, plan.summary.parameters)
    except Exception as error:  # it trusts the shape of what people write into model cards
        plan.summary.notes.append(f"the model card was passed over ({type(error).__name__}: {error})")
        description = gguf.Metadata()
    for name, value in vars(description).items():
        if name.startswith("sampling_") and not _is_sampling_value(name, value):
            setattr(description, name, None)
    description.name = description.name or directory.name
    if description.size_label is None:
        description.size_label = gguf.size_label(*writer.get_total_parameter_count())
    description.set_gguf_meta_model(writer)


def _is_sampling_value(name: str, value: Any) -> bool:
    if name == "sampling_sequence":
        return isinstance(value, str)
    whole = name in ("sampling_top_k", "sampling_penalty_last_n", "sampling_mirostat")
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _plan_copy(source: Path, options: ExportOptions) -> CopyPlan:
    if options.outtype != AUTO:
        raise InputError(
            f"{source}: tensors of a GGUF file are copied as they are; leave --outtype {options.outtype} out"
        )
    file = GgufFile(source)
    architecture = file.architecture
    if architecture not in known_gguf_names():
        known = ", ".join(known_gguf_names())
        raise InputError(f"{source}: architecture {architecture} is not supported; supported are {known}")
    stated = read_scheme(file, str(source))
    trained = trained_length_of_gguf(file)
    choice = choose_scheme(
        options.scheme, trained, SchemeChoice(stated, "as the file had it") if stated else None
    )
    entries = {key: file.value_bytes(key) for key in file if key not in scheme_keys(architecture)}
    entries |= _packed(scheme_entries(architecture, choice.scheme))
    tensors = tuple((file, tensor) for tensor in file.tensors)
    copy = Copy(entries, tensors, file.alignment)
    summary = Summary(
        architecture,
        sum(tensor.n_values for tensor in file.tensors if not tensor.name.startswith("rope_")),
        copy.data_bytes,
        count_types(tensor.type for tensor in file.tensors),
        trained,
        choice,
    )
    return CopyPlan(copy, summary)


def _packed(entries: Mapping[str, tuple[GGUFValueType, Any]]) -> dict[str, bytes]:
    return {key: packed_value(kind, value) for key, (kind, value) in entries.items()}
