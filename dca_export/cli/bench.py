"""dca-bench: how fast a model runs here."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dca_export.cli._common import (
    EXIT_OK,
    add_json_argument,
    command_parser,
    counts,
    positive_int,
    print_table,
    progress_bar,
    run,
    write_json,
)
from dca_export.cli._runtime import add_model_arguments, opened
from dca_export.errors import InputError
from dca_runtime.options import ATTENTIONS

if TYPE_CHECKING:
    from dca_runtime.bench import Result

EXAMPLE = """
dca-bench model.gguf
dca-bench model.gguf -p 512,4096 -n 64 -d 0,8192 --attention plain --attention dca --json speed.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_parser(
        "dca-bench",
        "Measures prefill and decode speed, and the GFLOP/s or GB/s they amount to.",
        EXAMPLE,
    )
    add_model_arguments(parser)
    parser.add_argument(
        "-p", "--prompt", type=counts, default=[512], metavar="N,…", help="prefill lengths (default: 512)"
    )
    parser.add_argument(
        "-n", "--generate", type=counts, default=[64], metavar="N,…", help="tokens to decode (default: 64)"
    )
    parser.add_argument(
        "-d",
        "--depth",
        type=counts,
        default=[0],
        metavar="N,…",
        help="tokens in the cache before (default: 0)",
    )
    parser.add_argument("-r", "--repeats", type=positive_int, default=5, help="of each test (default: 5)")
    parser.add_argument(
        "--attention",
        choices=ATTENTIONS,
        action="append",
        help="may be given several times (default: auto, the file's own)",
    )
    add_json_argument(parser)
    return run(parser, _bench, argv)


def _bench(arguments: argparse.Namespace) -> int:
    from dca_runtime import bench

    planned = bench.tests(arguments.prompt, arguments.generate, arguments.depth)
    if not planned:
        raise InputError("nothing to measure: give -p or -n a number above 0")
    attentions = arguments.attention or ["auto"]
    results = []
    with opened(arguments) as model, progress_bar("measuring") as update:
        for attention in attentions:
            for result in bench.measure(
                model, planned, arguments.repeats, attention, arguments.cache_type, arguments.threads
            ):
                results.append(result)
                update(len(results), len(planned) * len(attentions))
    if arguments.json is not None:
        write_json([dataclasses.asdict(result) for result in results], arguments.json)
    if arguments.json != "-":
        print_table(
            ["test", "attention", "cache", "tokens/s", "±", "GFLOP/s", "GB/s"],
            [_row(result) for result in results],
            title=f"{arguments.model} on {results[0].device}",
        )
    return EXIT_OK


def _row(result: "Result") -> list[str]:
    return [
        result.test,
        result.attention,
        result.cache_type,
        f"{result.tokens_per_s:,.1f}",
        f"{result.stdev:,.1f}",
        "" if result.gflop_per_s is None else f"{result.gflop_per_s:,.1f}",
        "" if result.gb_per_s is None else f"{result.gb_per_s:,.2f}",
    ]
