"""dca-export --tune: the scheme is chosen on the user's own text."""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dca_export.cli.shared import argument_types, display
from dca_export.errors import InputError
from dca_export.export.output_file import check_output, directory_beside, write_file
from dca_export.export.plan import ExportOptions
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.write import export_model
from dca_export.gguf.file import is_gguf
from dca_export.gguf.tune_keys import tune_entries

if TYPE_CHECKING:
    from dca_export.evaluate.intervals import Interval
    from dca_export.evaluate.tune import Trial, Tuned

DEFAULT_MINUTES = 20


def add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --tune and --tune-minutes."""
    parser.add_argument(
        "--tune",
        type=Path,
        metavar="TEXT",
        help="choose the scheme on your own text: what predicts it and finds keys hidden in it at least as "
        "well as the default; the evidence goes into OUT and OUT.tune.md",
    )
    parser.add_argument(
        "--tune-minutes",
        type=argument_types.positive_int,
        metavar="N",
        help=f"time for that, at most (default: {DEFAULT_MINUTES})",
    )


def check_tune(arguments: argparse.Namespace) -> None:
    """Raises InputError: --tune does not go with another option, or its text or report is no file to use."""
    if arguments.tune is None:
        if arguments.tune_minutes is not None:
            raise InputError("--tune-minutes needs --tune TEXT")
        return
    others = {
        "--no-dca": arguments.no_dca,
        "--chunk-size": arguments.chunk_size is not None,
        "--local-window": arguments.local_window is not None,
        "--string": arguments.string is not None,
        "--format hf": arguments.format == "hf",
        "--dry-run": arguments.dry_run,
        "--verify": arguments.verify is not None,
    }
    if given := [name for name, is_given in others.items() if is_given]:
        raise InputError(f"--tune chooses the scheme of a file: {given[0]} does not go with it")
    if not arguments.tune.is_file():
        raise InputError(f"--tune {arguments.tune}: no such file")
    if arguments.output is not None:
        check_output(arguments.output, arguments.force)
        check_output(report_path(arguments.output), arguments.force)


def report_path(output: Path) -> Path:
    """Where the report on ``output`` goes."""
    return output.with_name(f"{output.name}.tune.md")


def tuned_options(
    arguments: argparse.Namespace, options: ExportOptions
) -> tuple[ExportOptions, list[str], bytes]:
    """Options with the scheme chosen and its evidence, lines on it for a person, and the report."""
    from dca_export.evaluate.methods import Method
    from dca_export.evaluate.text import Text
    from dca_export.evaluate.tune import tune
    from dca_runtime import Model, __version__

    text = Text(arguments.tune)
    seconds = 60.0 * (arguments.tune_minutes or DEFAULT_MINUTES)
    with _measured_file(arguments, options) as file, display.progress_bar("loading") as update:
        with Model(file, device="auto", progress=update) as model:

            def progress(spent: float, allowed: float, what: str) -> None:
                update(spent, allowed, what)

            display.note(f"trying schemes on {arguments.tune}, {seconds / 60:.0f} minutes at most")
            tuned = tune(model, text, seconds, progress)
    described = text.description()
    evidence = {"dca_export": __version__} | described | tuned.as_json()
    extra = options.extra | tune_entries(tuned.verdict, evidence)
    scheme = options.scheme
    if tuned.scheme != tuned.default:
        chosen = tuned.scheme
        scheme = SchemeOptions(True, chosen.pretraining_length, chosen.chunk_size, chosen.local_window)
    lines = [f"tuned    {tuned.verdict}", f"evidence {report_path(arguments.output)}"]
    report = _report(arguments, tuned, evidence, Method("dca", tuned.scheme).name.removeprefix("dca:"))
    return replace(options, scheme=scheme, extra=extra), lines, report.encode()


def write_report(arguments: argparse.Namespace, report: bytes) -> None:
    """Writes it beside the output, whole or not at all."""
    write_file(report_path(arguments.output), report)


@contextlib.contextmanager
def _measured_file(arguments: argparse.Namespace, options: ExportOptions) -> Iterator[Path]:
    """A GGUF file of the model with its default scheme, beside the output, removed afterwards."""
    with directory_beside(arguments.output) as directory:
        file = directory / "measured.gguf"
        what = "copying" if is_gguf(arguments.model) else "converting"
        with display.progress_bar(f"{what} {arguments.model.name}") as update:
            export_model(arguments.model, file, replace(options, split_bytes=0), progress=update)
        yield file


def _report(arguments: argparse.Namespace, tuned: "Tuned", evidence: dict[str, Any], chosen: str) -> str:
    rows = [
        f"| {trial.name}{' (default)' if trial.scheme == tuned.default else ''} | {trial.perplexity:.3f}"
        f"{_bounds(trial.perplexity_interval)} | "
        f"{'' if trial is tuned.trials[0] else _bounds(trial.times(tuned.trials[0])).strip()} | "
        f"{_keys(trial)} |"
        for trial in tuned.trials
    ]
    table = [
        "| chunk size / local window / pretraining length | perplexity | times the default's | keys found |",
        "|---|---|---|---|",
        *rows,
        "",
        "In brackets: where the figure would lie with more text or keys of the kind, with 95 % confidence "
        "(block bootstrap over windows, Wilson; times the default's: paired by windows).",
    ]
    measured = [
        f"Read: the first {tuned.tokens:,} tokens of {evidence['text']} ({evidence['text_bytes']:,} bytes, "
        f"SHA-256 of its first MiB {evidence['text_sha256_of_first_mib']}); {tuned.keys} five-digit keys "
        f"hidden in it, one a prompt of that length; {tuned.seconds:.0f} s, dca-export "
        f"{evidence['dca_export']}.",
        "",
        *table,
    ]
    return "\n".join(
        [
            f"# The scheme of {arguments.output.name}",
            "",
            f"{chosen} (chunk size / local window / pretraining length).",
            f"{tuned.verdict[0].upper()}{tuned.verdict[1:]}.",
            "",
            *(measured if tuned.trials else []),
            "",
            "A scheme takes the default's place only if it predicts the text no worse, finds no fewer keys, "
            "and is better on one of the two by more than the noise of the paired difference (95 % "
            "confidence).",
            "",
        ]
    )


def _bounds(interval: "Interval | None") -> str:
    return "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"


def _keys(trial: "Trial") -> str:
    bounds = trial.found_interval
    if bounds is None:
        return "not asked"
    return f"{sum(trial.found)} of {len(trial.found)} [{bounds.low:.0%}, {bounds.high:.0%}]"
