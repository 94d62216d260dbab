"""dca-parity: is the native runtime right?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli._common import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    add_json_argument,
    command_parser,
    positive_int,
    print_table,
    progress_bar,
    run,
    write_json,
)
from dca_export.cli._runtime import add_machine_arguments, opened
from dca_export.errors import InputError
from dca_runtime.options import CACHE_TYPES

if TYPE_CHECKING:
    from dca_export.parity.check import Part, Report

DEFAULT_LENGTH = 1024  # about a minute for a model of 135M parameters in f32 on two cores

EXAMPLE = """
dca-parity model.gguf
dca-parity model.gguf --reference checkpoint/ --length 4096 --json parity.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 passed, 1 failed, 2 bad input."""
    parser = command_parser(
        "dca-parity",
        "Compares the runtime's logits with a PyTorch reference that shares no code with it: prefill in one "
        "call and in pieces, and decoding, across chunk borders. Without --reference the file's own weights "
        "are dequantised, which isolates the runtime's error.",
        EXAMPLE,
    )
    parser.add_argument("model", metavar="OUT.gguf", type=Path, help="the file to check")
    parser.add_argument(
        "--reference", metavar="MODEL", type=Path, help="the original checkpoint: adds the export's error"
    )
    parser.add_argument(
        "--length",
        type=positive_int,
        default=DEFAULT_LENGTH,
        metavar="N",
        help=f"tokens compared (default: {DEFAULT_LENGTH})",
    )
    add_machine_arguments(parser)
    parser.add_argument(
        "--cache-type",
        choices=CACHE_TYPES,
        help="what the runtime keeps keys and values in (default: f32 for f32 files on a CPU, else f16)",
    )
    parser.add_argument(
        "--text", metavar="FILE", type=Path, help="text to take the tokens from (default: one in Python)"
    )
    add_json_argument(parser)
    return run(parser, _parity, argv)


def _parity(arguments: argparse.Namespace) -> int:
    try:
        with progress_bar("importing PyTorch"):
            import transformers

            from dca_export.parity.torch_reference import TorchReference
    except ImportError as error:
        raise InputError(
            f"the reference needs the package {error.name}: pip install 'dca-export[reference]'"
        ) from error
    transformers.logging.set_verbosity_error()  # its bars and remarks are not this command's
    transformers.logging.disable_progress_bar()
    from dca_export.gguf.file import GgufFile
    from dca_export.parity.check import check, weight_type

    with opened(arguments) as model, progress_bar("comparing") as update:
        weights = weight_type(GgufFile(arguments.model))
        source = arguments.reference or arguments.model
        device = model.info.device.split()[0]  # "cuda:0 (the card's name)"; auto has been decided
        report = check(
            model,
            TorchReference(source, device, weights),
            arguments.length,
            weights=weights,
            against_original=arguments.reference is not None,
            cache_type=arguments.cache_type,
            text=arguments.text,
            progress=update,
        )
    if arguments.json is not None:
        write_json(report.as_json(), arguments.json)
    if arguments.json != "-":
        _show(report)
    return EXIT_OK if report.passed else EXIT_CHECK_FAILED


def _show(report: "Report") -> None:
    print(f"{report.file}: {report.weights} weights, {report.cache_type} cache, on {report.device}")
    print(f"against {report.reference}")
    print(f"tokens from {report.text}; demanded: {report.tolerance}")
    for line in sorted({_scheme_line(part) for part in report.parts if part.scheme}):
        print(line)
    print_table(
        [
            "attention, fed",
            "tokens",
            "borders",
            "max |Δ|",
            "mean |Δ|",
            "mean KL",
            "max KL",
            "top-1",
            "ppl reference",
            "ppl runtime",
            "verdict",
        ],
        [_row(part) for part in report.parts],
    )
    for part in report.parts:
        for failure in part.failures:
            print(f"FAILED {part.group}, {part.fed}: {failure}")
    print("passed" if report.passed else "FAILED")


def _scheme_line(part: "Part") -> str:
    s = part.scheme
    assert s is not None
    changed = ", shrunk from the file's to cross enough chunk borders" if part.scheme_shrunk else ""
    return (
        f"{part.group}: chunk_size {s.chunk_size}, local_window {s.local_window}, "
        f"pretraining_length {s.pretraining_length}{changed}"
    )


def _row(part: "Part") -> list[str]:
    found = part.agreement
    return [
        f"{part.group}, {part.fed}",
        f"{found.tokens:,}",
        f"{part.borders}",
        f"{found.max_difference:.2e}",
        f"{found.mean_difference:.2e}",
        f"{found.mean_kl:.2e}",
        f"{found.max_kl:.2e}",
        f"{found.top1:.2%}",
        f"{found.perplexity_reference:,.4g}",
        f"{found.perplexity_runtime:,.4g}",
        "FAILED" if part.failures else "ok",
    ]
