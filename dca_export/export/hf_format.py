"""An ordinary Hugging Face directory whose config.json carries a scheme, for engines that read it there.

The scheme goes into `dual_chunk_attention_config`: as Qwen's own 1M models state theirs, with exact integers
beside it (docs/serving.md).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dca_export.checkpoint.tensors import Checkpoint, open_checkpoint
from dca_export.errors import InputError
from dca_export.export.output_file import check_space, directory_beside
from dca_export.export.scheme_choice import (
    SchemeChoice,
    SchemeOptions,
    beyond_training,
    choose_scheme,
    reach_of_config,
    stated_by_config,
    stated_elsewhere,
)
from dca_export.export.source_files import SourceFiles
from dca_export.export.summary import SchemeFacts
from dca_export.model.rope import DUAL_CHUNK, ORIGINAL, TrainedLength, trained_length
from dca_export.scheme import EXACT, Scheme

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")  # large, and never edited in place

Progress = Callable[[int, int], Any]


def export_directory(
    source: Path, output: Path, options: SchemeOptions, progress: Progress | None = None
) -> SchemeFacts:
    """Writes the directory `output`: everything in `source` and the scheme.

    Weights are hard-linked where possible; all other files are copies, which may be edited. It appears whole
    or not at all. Raises InputError if the scheme asked for is not valid, or `output` holds something already
    or lies in `source`.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: already exists; name a directory that is new or empty")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such directory to make {output.name} in")
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"{output}: lies in the model that is read; name a directory outside {source}")
    read = SourceFiles.of(source)
    checkpoint, facts = _plan(source, options)
    choice = facts.choice
    config = dict(checkpoint.config.values)
    if choice.scheme is None:
        config.pop(DUAL_CHUNK, None)
    else:
        # What else the model states there, such as sparse attention, stays.
        stated = config.get(DUAL_CHUNK) or {}
        others = {k: v for k, v in stated.items() if k != ORIGINAL and not k.startswith(EXACT)}
        config[DUAL_CHUNK] = others | choice.scheme.as_dual_chunk_config()
    with directory_beside(output) as directory:
        made = directory / output.name
        made.mkdir()
        _take_over(checkpoint, made, output, progress or (lambda done, total: None))
        text = json.dumps(config, indent=2)  # ASCII: half a surrogate pair has no UTF-8
        (made / "config.json").write_text(text + "\n", encoding="utf-8")
        read.check()
        os.replace(made, output)
    return facts


def plan_directory(source: Path, options: SchemeOptions) -> SchemeFacts:
    """What export_directory would state; nothing is written. Raises InputError."""
    return _plan(source, options)[1]


def _plan(source: Path, options: SchemeOptions) -> tuple[Checkpoint, SchemeFacts]:
    checkpoint = open_checkpoint(source)
    trained = trained_length(checkpoint.config)
    choice, notes = _choice(checkpoint, options, trained)
    return checkpoint, SchemeFacts(trained, choice, notes)


def _choice(
    checkpoint: Checkpoint, options: SchemeOptions, trained: TrainedLength
) -> tuple[SchemeChoice, list[str]]:
    stated, _ = stated_by_config(checkpoint.config)
    notes = [*checkpoint.notes, *stated_elsewhere(checkpoint.config, checkpoint.directory)]
    choice = choose_scheme(options, trained, stated)
    notes += beyond_training(choice, reach_of_config(checkpoint.config))
    if choice.scheme is not None and (nearest := choice.scheme.nearest_dual_chunk()) != choice.scheme:
        notes.append(
            f"{DUAL_CHUNK} states it exactly; engines that read chunk_size and local_size alone run "
            f"local_window {nearest.local_window:,}{_other_scale(choice.scheme, nearest)}"
        )
    return choice, notes


def _other_scale(scheme: Scheme, nearest: Scheme) -> str:
    same = scheme.logit_scale == nearest.logit_scale
    return "" if same else f" and logit_scale {nearest.logit_scale}"


def _take_over(checkpoint: Checkpoint, made: Path, output: Path, progress: Progress) -> None:
    """Links weights and copies the rest, but config.json and hidden files, also in directories below."""
    source = checkpoint.directory
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]
    total = sum(path.stat().st_size for path in files)
    done = 0
    for path in files:
        target = made / path.relative_to(source)
        if target == made / "config.json":
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in WEIGHTS or not _linked(path, target):
            check_space(output, path.stat().st_size)
            shutil.copyfile(path, target)
        done += path.stat().st_size
        progress(done, total)


def _linked(path: Path, target: Path) -> bool:
    """Makes `target` a hard link; False on another file system, or one without links."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        return False
    return True
