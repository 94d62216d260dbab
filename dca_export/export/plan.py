"""The plan of an export: everything decided, no tensor read yet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFValueType

from dca_export.adapters.changes import AdapterOption
from dca_export.adapters.merge import merged
from dca_export.checkpoint.quantized.table import dequantised
from dca_export.checkpoint.tensors import Checkpoint, open_checkpoint
from dca_export.checkpoint.tying import settle_tying
from dca_export.errors import InputError
from dca_export.export.convert import check_readable, tensor_bytes
from dca_export.export.recipes import AS_MXFP4, RECIPES, Model, Recipe, tensor_type
from dca_export.export.repack import is_lossless
from dca_export.export.requantise import requantised
from dca_export.export.runnable import check_runnable
from dca_export.export.scheme_choice import (
    SchemeChoice,
    SchemeOptions,
    beyond_training,
    choose_scheme,
    reach_of_config,
    reach_of_gguf,
    stated_by_config,
    stated_elsewhere,
    trained_length_of_gguf,
)
from dca_export.export.stated_budgets import stated_budgets
from dca_export.export.summary import SchemeFacts, Summary, count_types
from dca_export.export.weighting import Weighting
from dca_export.gguf.budget_keys import budget_entries
from dca_export.gguf.copy import Copy
from dca_export.gguf.file import GgufFile, is_gguf, open_parts, packed_value
from dca_export.gguf.packing import check_packable
from dca_export.gguf.scheme_keys import (
    border_entries,
    read_border,
    read_scheme,
    scheme_entries,
    scheme_keys,
)
from dca_export.gguf.tune_keys import TUNE_KEYS
from dca_export.importance.file import Sums
from dca_export.model.architectures import find_architecture, known_gguf_names
from dca_export.model.completion import completed
from dca_export.model.hyperparameters import Entries, model_entries, read_dimensions
from dca_export.model.layout import PlannedTensor, generated_tensor, plan_tensors
from dca_export.model.passed_over import passed_over
from dca_export.model.rope import context_length, read_rope, sliding_window, trained_length
from dca_export.model.windows import kept_windows
from dca_export.tokenizer.vocabulary import Vocabulary, read_vocabulary

AUTO = "auto"
LEAST_ALIGNMENT = 8  # of a copy's tensors: what the runtime takes, whatever the source has
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")  # of files in several parts


@dataclass(frozen=True)
class ExportOptions:
    """`outtype`: "auto" or a name of recipes.RECIPES. `split_bytes`: largest part's tensors; 0: one file.

    `adapters` are merged into the model, in order. `imatrix`: a file that says what errors count.
    `requantize`: tensors of a GGUF file below 8 bits may be quantised again.
    `extra`: entries that say how the file came to be (docs/format.md); they replace what a GGUF source has.
    """

    outtype: str = AUTO
    scheme: SchemeOptions = SchemeOptions()
    split_bytes: int = 0
    adapters: tuple[AdapterOption, ...] = ()
    imatrix: Path | None = None
    requantize: bool = False
    extra: Entries = field(default_factory=dict)


@dataclass(frozen=True)
class TypedTensor:
    """A tensor to be written and the type it is written in."""

    planned: PlannedTensor
    type: GGMLQuantizationType
    repack: bool = False  # it is of that type as it stands in the source
    sums: Sums | None = None  # by which its errors count

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.planned.shape, self.type)


@dataclass(frozen=True)
class DirectoryPlan:
    """A model directory that is to become a GGUF file."""

    checkpoint: Checkpoint
    architecture: str
    recipe: Recipe
    entries: Entries
    tensors: list[TypedTensor]
    vocabulary: Vocabulary
    summary: Summary


@dataclass(frozen=True)
class CopyPlan:
    """A GGUF file that is to get other DCA keys."""

    copy: Copy
    summary: Summary


def plan_export(source: Path, options: ExportOptions) -> DirectoryPlan | CopyPlan:
    """Reads configuration, headers and tokenizer of `source` and decides on everything. Raises InputError."""
    if is_gguf(source):
        return _plan_copy(source, options)
    checkpoint = settle_tying(dequantised(completed(open_checkpoint(source))))
    if options.adapters:
        checkpoint = settle_tying(merged(checkpoint, options.adapters))
    return _plan_directory(checkpoint, options)


def _plan_directory(checkpoint: Checkpoint, options: ExportOptions) -> DirectoryPlan:
    config = checkpoint.config
    architecture = find_architecture(config)
    dimensions = read_dimensions(config, architecture)
    stated, notes = stated_by_config(config)
    notes = [*checkpoint.notes, *notes]
    notes += stated_elsewhere(config, checkpoint.directory)
    budgets, of_budgets = stated_budgets(config, checkpoint.directory, dimensions.layers, dimensions.heads)
    notes += of_budgets
    trained = trained_length(config)
    choice = choose_scheme(options.scheme, trained, stated)
    notes += beyond_training(choice, reach_of_config(config))
    stored = plan_tensors(checkpoint, architecture, dimensions)  # first: it shows the sizes to be real
    notes += passed_over(config, stored)
    for planned in stored:
        for piece in planned.pieces:
            check_readable(piece.tensor)
    positions = choice.scheme.pretraining_length if choice.scheme else trained.tokens
    rope = read_rope(config, dimensions.head_dim, options.scheme.pretraining_length or positions)
    recipe = _recipe(options.outtype, stored).heeding(options.imatrix is not None)
    generated = [generated_tensor(name, values, checkpoint) for name, values in rope.tensors.items()]
    tied = all(planned.name != "output.weight" for planned in stored)
    tensors, fallen = _typed(recipe, Model(architecture.name, dimensions, tied), generated + stored)
    importance = Weighting.of(options.imatrix)
    tensors = [replace(each, sums=importance.sums_of(each.planned, each.type)) for each in tensors]
    fallen += importance.notes()
    vocabulary = read_vocabulary(checkpoint.directory, dimensions.vocab)
    entries = model_entries(config, architecture, dimensions, _context(checkpoint, stated))
    entries |= {f"{architecture.name}.{key}": value for key, value in rope.entries.items()}
    entries |= scheme_entries(architecture.name, choice.scheme)
    entries |= border_entries(architecture.name, choice.border)
    entries |= budget_entries(architecture.name, budgets)
    entries |= importance.entries() | options.extra
    for key, (kind, value) in entries.items():
        check_packable(config.where, key, kind, value)
    if f"{architecture.name}.expert_weights_norm" in entries:
        notes.append(
            f"norm_topk_prob is not what stock llama.cpp assumes for {architecture.name}; "
            "there this model will give other results"
        )
    windows = kept_windows(config)
    if windows and not windows.usual:
        notes.append(
            f"layer_types is not what stock llama.cpp assumes for {architecture.name}; an older one gives "
            "other results"
        )
    if (window := sliding_window(config)) and windows is None:
        notes.append(f"sliding_window {window} is not used: every layer attends to everything before it")
    summary = Summary(
        architecture.name,
        parameters=sum(planned.n_values for planned in stored),
        bytes=sum(tensor.nbytes for tensor in tensors),
        types=count_types(tensor.type for tensor in tensors),
        scheme=SchemeFacts(trained, choice, notes + fallen + vocabulary.notes),
    )
    return DirectoryPlan(checkpoint, architecture.name, recipe, entries, tensors, vocabulary, summary)


def _context(checkpoint: Checkpoint, stated: SchemeChoice | None) -> int:
    """What `{architecture}.context_length` says: the length that plain attention was trained for.

    Models that state a scheme give the length it reaches as max_position_embeddings.
    """
    context = context_length(checkpoint.config).tokens
    if stated is not None and stated.scheme is not None and stated.scheme.logit_scale_length:
        return min(context, stated.scheme.logit_scale_length)
    return context


def _recipe(outtype: str, tensors: list[PlannedTensor]) -> Recipe:
    """The recipe asked for; "auto" is BF16 where that type holds most of the values, else F16."""
    if outtype == AUTO:
        values: Counter[str] = Counter()
        for piece in (piece for planned in tensors for piece in planned.pieces):
            values[piece.tensor.origin or piece.tensor.dtype] += (
                piece.stop - piece.start
            ) * piece.tensor.columns
        most = values.most_common(1)[0][0]
        if most == "MXFP4":
            return AS_MXFP4
        outtype = "bf16" if most == "BF16" else "f16"
    return _known(outtype)


def _known(outtype: str) -> Recipe:
    if outtype not in RECIPES:
        raise InputError(f"outtype {outtype} is not known; known are {', '.join(RECIPES)} and {AUTO}")
    return RECIPES[outtype]


def _typed(recipe: Recipe, model: Model, tensors: list[PlannedTensor]) -> tuple[list[TypedTensor], list[str]]:
    """Each tensor with its type, and notes on those whose rows the recipe's own type does not fit."""
    typed: list[TypedTensor] = []
    replaced: dict[tuple[GGMLQuantizationType, GGMLQuantizationType], list[PlannedTensor]] = {}
    for planned in tensors:
        choice = tensor_type(recipe, model, planned.name, planned.shape, planned.f32)
        typed.append(TypedTensor(planned, choice.type, is_lossless(planned, choice.type)))
        if choice.instead_of is not None:
            replaced.setdefault((choice.instead_of, choice.type), []).append(planned)
    notes = []
    if repacked := sum(tensor.repack for tensor in typed):
        of = sum(tensor.planned.pieces[0].tensor.four_bits is not None for tensor in typed)
        notes.append(f"{repacked} of {of} matrices of 4 bits are repacked as they stand, without a loss")
    for (wanted, kind), alike in replaced.items():
        are = "tensor is" if len(alike) == 1 else "tensors are"
        notes.append(
            f"{len(alike)} {are} {kind.name} instead of {wanted.name}, whose blocks do not divide rows of "
            f"{alike[0].shape[-1]} ({alike[0].name})"
        )
    return typed, notes


def _plan_copy(source: Path, options: ExportOptions) -> CopyPlan:
    if options.adapters:
        raise InputError(f"{source}: adapters are merged into a model directory, not into a GGUF file")
    if options.outtype == AUTO and (options.imatrix or options.requantize):
        raise InputError(f"{source}: tensors are copied as they are; name another type with --outtype")
    parts = open_parts(source)
    file = parts[0]
    architecture = file.architecture
    if architecture not in known_gguf_names():
        known = ", ".join(known_gguf_names())
        raise InputError(f"{source}: architecture {architecture} is not supported; supported are {known}")
    check_runnable(parts)
    stated, border = read_scheme(file, str(source)), read_border(file, str(source))
    trained = trained_length_of_gguf(file)
    kept = SchemeChoice(stated, "as the file had it", border) if stated or border else None
    choice = choose_scheme(options.scheme, trained, kept)
    dropped = (*scheme_keys(architecture), *SPLIT_KEYS)
    if (choice.scheme, choice.border) != (stated, border):
        dropped = (*dropped, *TUNE_KEYS)  # evidence for another scheme
    entries = {key: file.value_bytes(key) for key in file if key not in dropped}
    chosen = scheme_entries(architecture, choice.scheme) | border_entries(architecture, choice.border)
    for key, (kind, value) in (chosen | options.extra).items():
        entries[key] = packed_value(kind, value)
    if file.alignment < LEAST_ALIGNMENT:
        entries["general.alignment"] = packed_value(GGUFValueType.UINT32, LEAST_ALIGNMENT)
    alignment = max(file.alignment, LEAST_ALIGNMENT)
    notes = beyond_training(choice, reach_of_gguf(file))
    copy = Copy(entries, tuple((part, tensor) for part in parts for tensor in part.tensors), alignment)
    if options.outtype != AUTO:
        recipe = _known(options.outtype).heeding(options.imatrix is not None)
        copy, more = requantised(copy, file, recipe, Weighting.of(options.imatrix), options.requantize)
        notes += more
    summary = Summary(
        architecture,
        parameters=_parameters(parts),
        bytes=copy.data_bytes,
        types=count_types(tensor.type for _, tensor in copy.tensors),
        scheme=SchemeFacts(trained, choice, notes),
    )
    return CopyPlan(copy, summary)


def _parameters(parts: list[GgufFile]) -> int:
    """Values of all tensors but those that follow from the configuration (frequency factors)."""
    tensors = [tensor for part in parts for tensor in part.tensors]
    return sum(tensor.n_values for tensor in tensors if not tensor.name.startswith("rope_"))
