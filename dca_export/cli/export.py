"""dca-export: writes a GGUF file with Dual Chunk Attention from a model."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from dca_export.adapters.changes import AdapterOption
from dca_export.cli import imatrix
from dca_export.cli.shared import argument_types, command, display, outputs
from dca_export.cli.shared.sources import HUB_HELP, source_of
from dca_export.cli.shared.tune import add_tune_arguments, check_tune, tuned_options, write_report
from dca_export.errors import InputError
from dca_export.export.hf_format import export_directory, plan_directory
from dca_export.export.output_file import check_apart, check_output, check_report
from dca_export.export.plan import AUTO, CopyPlan, ExportOptions, plan_export
from dca_export.export.recipes import RECIPES
from dca_export.export.scheme_choice import SchemeOptions, StringBorder, string_border
from dca_export.export.summary import short_count, size
from dca_export.export.verify import scheme_text, verify
from dca_export.export.write import export_model
from dca_export.hub.names import is_hub_name

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["imatrix"]:
        return imatrix.main(words[1:])
    parser = command.command_parser(
        "dca-export",
        "Writes a GGUF file whose attention reaches past the trained context (Dual Chunk Attention).",
        example="dca-export ./Llama-2-7b-hf llama2-dca.gguf --outtype q8_0\n"
        "dca-export hf:HuggingFaceTB/SmolLM2-360M-Instruct smollm2.gguf\n"
        "dca-export old.gguf with-dca.gguf --chunk-size 3072 --pretraining-length 4096\n"
        "dca-export ./Qwen2.5-7B-hf ./Qwen2.5-7B-dca --format hf\n"
        "dca-export ./Llama-2-7b-hf tuned.gguf --lora ./my-adapter --lora ./another=0.5\n"
        "dca-export imatrix old.gguf text.txt old.imatrix.gguf\n"
        "dca-export old.gguf smaller.gguf --outtype q4_k_m --imatrix old.imatrix.gguf\n"
        "dca-export ./Llama-2-7b-hf llama2-dca.gguf --tune my-notes.txt --tune-minutes 60\n"
        "dca-export --verify llama2-dca.gguf ./Llama-2-7b-hf",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help=f"a Hugging Face model directory, or a .gguf to add the keys to, {HUB_HELP}",
    )
    parser.add_argument(
        "output", type=Path, nargs="?", metavar="OUT", help="the file (or directory) to write"
    )
    parser.add_argument(
        "--outtype",
        choices=[AUTO, *RECIPES],
        default=AUTO,
        help="types of the matrices (default: auto, the checkpoint's own 16-bit type; a .gguf's as they are)",
    )
    parser.add_argument(
        "--lora",
        type=_adapter,
        action="append",
        default=[],
        metavar="DIR[=SCALE]",
        help="merge an adapter: PEFT's directory, or llama.cpp's GGUF file; may be given several times",
    )
    parser.add_argument(
        "--imatrix",
        type=Path,
        metavar="FILE",
        help="let errors count by what flows into each column: a file of dca-export imatrix or llama-imatrix",
    )
    parser.add_argument(
        "--requantize",
        action="store_true",
        help="let --outtype quantise tensors of a .gguf again that are below 8 bits already",
    )
    _add_scheme_arguments(parser)
    add_tune_arguments(parser)
    parser.add_argument(
        "--format",
        choices=["gguf", "hf"],
        default="gguf",
        help="hf: a Hugging Face directory with the scheme in config.json, for engines that read it there",
    )
    parser.add_argument(
        "--split-max-size",
        type=_size,
        default=0,
        metavar="N[K|M|G]",
        help="write several files with at most so many bytes of tensors each",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="OUT.gguf",
        help="write nothing: compare every tensor and entry of OUT.gguf with MODEL, and its scheme "
        "with the one that the scheme options give, if there are any",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a file that exists")
    outputs.add_json_argument(parser)
    return command.run(parser, _body, argv)


def _add_scheme_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretraining-length",
        type=argument_types.positive_int,
        metavar="C",
        help="tokens the model was trained on; no relative position reaches it (default: from the model)",
    )
    parser.add_argument(
        "--chunk-size",
        type=argument_types.positive_int,
        metavar="S",
        help="length of a chunk (default: 3/4 of C)",
    )
    parser.add_argument(
        "--local-window",
        type=argument_types.count,
        metavar="W",
        help="tokens after a chunk border that see the chunk before at exact distances (default: C - S)",
    )
    parser.add_argument("--no-dca", action="store_true", help="write no scheme: plain attention")
    parser.add_argument(
        "--string",
        type=_string,
        metavar="S/W",
        help="write STRING in place of a scheme: distances m from S on become m - S + W",
    )


def _string(text: str) -> StringBorder:
    try:
        return string_border(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _adapter(text: str) -> AdapterOption:
    path, found, scale = text.rpartition("=")
    if not found or Path(text).exists():
        return AdapterOption(Path(text))
    try:
        factor = float(scale)
    except ValueError:
        return AdapterOption(Path(text))
    if not path or not math.isfinite(factor):
        raise argparse.ArgumentTypeError(f"expected DIR or DIR=SCALE, got {text!r}")
    return AdapterOption(Path(path), factor)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 500M or 4G, got {text!r}")
    return int(found[1]) * _UNITS.get(found[2], 1)


def _body(arguments: argparse.Namespace) -> int:
    _check_report(arguments)
    check_tune(arguments)
    scheme = SchemeOptions(
        not arguments.no_dca,
        arguments.pretraining_length,
        arguments.chunk_size,
        arguments.local_window,
        arguments.string,
    )
    if scheme.string is not None:
        if scheme != SchemeOptions(pretraining_length=scheme.pretraining_length, string=scheme.string):
            raise InputError(
                "--string stands in place of a scheme: leave --no-dca, --chunk-size and --local-window out"
            )
        if arguments.format == "hf":
            raise InputError("--string does not go with --format hf: config.json has no key for it")
    if not scheme.dca and scheme != SchemeOptions(dca=False, pretraining_length=scheme.pretraining_length):
        raise InputError("--no-dca does not go with --chunk-size or --local-window")
    if is_hub_name(arguments.model) and arguments.output is not None and arguments.format == "gguf":
        check_output(arguments.output, arguments.force)  # before anything is fetched
    source = source_of(arguments.model)
    arguments.model = source.path
    if arguments.verify is not None:
        return _verify(arguments, None if scheme == SchemeOptions() else scheme)
    options = ExportOptions(
        arguments.outtype,
        scheme,
        arguments.split_max_size,
        tuple(arguments.lora),
        arguments.imatrix,
        arguments.requantize,
        source.origin,
    )
    if arguments.dry_run and arguments.format == "gguf":
        return _dry_run(arguments, options)
    if arguments.output is None and not arguments.dry_run:
        raise InputError("OUT is missing: name the file to write")
    if arguments.format == "hf":
        return _export_directory(arguments, options)
    lines: list[str] = []
    if arguments.tune is not None:
        options, lines, report = tuned_options(arguments, options)
    with display.progress_bar(f"writing {arguments.output.name}") as update:
        exported = export_model(arguments.model, arguments.output, options, arguments.force, update)
    if arguments.tune is not None:
        write_report(arguments, report)
    files = [str(path) for path in exported.files]
    _report(arguments, [f"wrote    {path}" for path in files] + exported.summary.lines() + lines)
    if arguments.json:
        outputs.write_json({"files": files} | exported.summary.as_json(), arguments.json)
    return command.EXIT_OK


def _check_report(arguments: argparse.Namespace) -> None:
    """Raises InputError, before anything is done, if --json cannot be written, or it or OUT is one read."""
    read = {"--tune": arguments.tune, "--imatrix": arguments.imatrix}
    read |= {f"--lora {adapter.path}": adapter.path for adapter in arguments.lora}
    for name, path in read.items():
        if None not in (path, arguments.output) and outputs.same_file(arguments.output, path):
            raise InputError(f"{arguments.output}: would overwrite what {name} names; give another name")
    if arguments.json is None or arguments.json == "-":
        return
    report = Path(arguments.json)
    check_report(report, *(path for path in (arguments.model, arguments.output, arguments.verify) if path))
    check_apart(report, arguments.model)
    outputs.check_outputs({"--json": report}, read)


def _export_directory(arguments: argparse.Namespace, options: ExportOptions) -> int:
    if options != ExportOptions(scheme=options.scheme, extra=options.extra):
        raise InputError(
            "--format hf keeps the weights as they are: options that change or split them do not go with it"
        )
    if arguments.dry_run:
        facts = plan_directory(arguments.model, options.scheme)
        _report(arguments, ["plan     nothing is written", *facts.lines()])
        if arguments.json:
            outputs.write_json(facts.as_json(), arguments.json)
        return command.EXIT_OK
    with display.progress_bar(f"linking {arguments.output.name}") as update:
        facts = export_directory(arguments.model, arguments.output, options.scheme, update)
    _report(arguments, [f"wrote    {arguments.output}", *facts.lines()])
    if arguments.json:
        outputs.write_json({"files": [str(arguments.output)]} | facts.as_json(), arguments.json)
    return command.EXIT_OK


def _dry_run(arguments: argparse.Namespace, options: ExportOptions) -> int:
    plan = plan_export(arguments.model, options)
    if isinstance(plan, CopyPlan):
        parts = {part.path: part for part, _ in plan.copy.tensors}
        before = {tensor.name: tensor.type.name for part in parts.values() for tensor in part.tensors}
        rows = [(t.name, t.shape, before[t.name], t.type.name, t.nbytes) for _, t in plan.copy.tensors]
    else:
        rows = [
            (t.planned.name, t.planned.shape, t.planned.pieces[0].tensor.dtype, t.type.name, t.nbytes)
            for t in plan.tensors
        ]
    if arguments.json != "-":
        table = [
            [name, " x ".join(map(str, shape)), stored, kind, size(nbytes)]
            for name, shape, stored, kind, nbytes in rows
        ]
        display.print_table(["tensor", "shape", "from", "to", "size"], table)
    _report(arguments, ["plan     nothing is written", *plan.summary.lines()])
    if arguments.json:
        tensors = [
            {"name": name, "shape": list(shape), "from": stored, "to": kind, "bytes": nbytes}
            for name, shape, stored, kind, nbytes in rows
        ]
        outputs.write_json(plan.summary.as_json() | {"tensors": tensors}, arguments.json)
    return command.EXIT_OK


def _verify(arguments: argparse.Namespace, expected: SchemeOptions | None) -> int:
    if arguments.output is not None:
        raise InputError(f"--verify writes nothing: what is {arguments.output} for?")
    writing = {
        "--outtype": arguments.outtype != AUTO,
        "--format": arguments.format != "gguf",
        "--split-max-size": bool(arguments.split_max_size),
        "--dry-run": arguments.dry_run,
        "--force": arguments.force,
        "--imatrix": arguments.imatrix is not None,
        "--requantize": arguments.requantize,
    }
    if given := [name for name, is_given in writing.items() if is_given]:
        raise InputError(f"--verify writes nothing: {given[0]} does not go with it")
    with display.progress_bar(f"reading {arguments.verify.name}") as update:
        report = verify(arguments.verify, arguments.model, update, expected, tuple(arguments.lora))
    if arguments.json != "-":
        rows = [[name, f"{found.tensors}", f"{found.worst:.2g}"] for name, found in report.types.items()]
        display.print_table(["type", "tensors", "largest relative error"], rows)
    verdict = "FAILED" if report.problems else "as the source"
    counted = f"{report.tensors} tensors, {short_count(report.values)} values"
    lines = [f"scheme   {scheme_text(report.scheme, report.border)}"]
    lines += [f"note     {note}" for note in report.notes]
    _report(arguments, [*lines, *report.problems, f"{arguments.verify}: {counted}: {verdict}"])
    if arguments.json:
        types = {name: vars(found) for name, found in report.types.items()}
        figures = {"tensors": report.tensors, "values": report.values, "types": types}
        scheme = None if report.scheme is None else vars(report.scheme)
        string = None if report.border is None else vars(report.border)
        found = {"scheme": scheme, "string": string, "problems": report.problems, "notes": report.notes}
        outputs.write_json(figures | found, arguments.json)
    return command.EXIT_CHECK_FAILED if report.problems else command.EXIT_OK


def _report(arguments: argparse.Namespace, lines: list[str]) -> None:
    if arguments.json != "-":
        print("\n".join(lines))
