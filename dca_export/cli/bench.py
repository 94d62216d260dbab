"""dca-bench: how fast a model runs here."""

import argparse
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import counts, finite_float, positive_ints, times
from dca_export.cli.shared.command import EXIT_OK, command_parser, run
from dca_export.cli.shared.display import print_table, progress_bar, row_printer
from dca_export.cli.shared.outputs import add_json_argument, check_outputs, write_json
from dca_export.cli.shared.runtime import add_model_arguments, attention, opened
from dca_export.errors import InputError

if TYPE_CHECKING:
    from dca_runtime import Model
    from dca_runtime.measuring.bench import Result
    from dca_runtime.measuring.bench_batches import BatchResult

EXAMPLE = """
dca-bench model.gguf
dca-bench model.gguf -B 1,4,16 -p 1024 -n 64 --bandwidth 3000
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
        metavar="N,…",
        help="tokens in the cache before (default: 0); not with -B",
    )
    parser.add_argument(
        "-B",
        "--batch",
        type=positive_ints,
        metavar="N,…",
        help="so many sequences at once: their prompts of -p tokens, then -n decode steps of all",
    )
    parser.add_argument(
        "--shared-prompt",
        action="store_true",
        help="with -B: one prompt, read once, whose cache the sequences share",
    )
    parser.add_argument(
        "--bandwidth",
        type=finite_float,
        metavar="GB/S",
        help="with -B: what the memory gives, in 10^9 bytes a second; decode is shown as a share of it",
    )
    parser.add_argument("-r", "--repeats", type=times, help="of each test (default: 5, with -B 1)")
    parser.add_argument(
        "--attention",
        type=attention,
        action="append",
        metavar="NAME",
        help="plain, dca, string:BORDER/LOCAL, streaming:SINKS/WINDOW, lm-infinite:SINKS/WINDOW or an "
        "ablation, intra or intra+inter; may be given several times (default: auto, the file's own)",
    )
    add_json_argument(parser)
    return run(parser, _bench, argv)


def _bench(arguments: argparse.Namespace) -> int:
    from dca_runtime.measuring import bench

    check_outputs({"--json": arguments.json}, {"MODEL.gguf": arguments.model})
    if arguments.batch is not None:
        return _bench_batches(arguments)
    of_many = {"--shared-prompt": arguments.shared_prompt, "--bandwidth": arguments.bandwidth is not None}
    for name, given in of_many.items():
        if given:
            raise InputError(f"{name} is for many sequences: give -B as well")
    planned = bench.tests(arguments.prompt, arguments.generate, arguments.depth or [0])
    if not planned:
        raise InputError("nothing to measure: give -p or -n a number above 0")
    attentions = arguments.attention or ["auto"]
    results = []
    with opened(arguments) as model, progress_bar("measuring") as update:
        for attention in attentions:
            for result in bench.measure(
                model,
                planned,
                arguments.repeats or 5,
                attention,
                arguments.cache_type,
                arguments.threads,
                arguments.prefill,
            ):
                results.append(result)
                update(len(results), len(planned) * len(attentions))
    if arguments.json is not None:
        write_json([dataclasses.asdict(result) for result in results], arguments.json)
    if arguments.json != "-":
        print_table(
            ["test", "attention", "cache", "prefill", "density", "tokens/s", "±", "GFLOP/s", "GB/s"],
            [_row(result) for result in results],
            title=f"{arguments.model} on {results[0].device}",
        )
    return EXIT_OK


def _row(result: "Result") -> list[str]:
    return [
        result.test,
        result.attention,
        result.cache_type,
        result.prefill,
        "" if result.mean_density is None else f"{result.mean_density:.1%}",
        f"{result.tokens_per_s:,.1f}",
        f"{result.stdev:,.1f}",
        "" if result.gflop_per_s is None else f"{result.gflop_per_s:,.1f}",
        "" if result.gb_per_s is None else f"{result.gb_per_s:,.2f}",
    ]


def _bench_batches(arguments: argparse.Namespace) -> int:
    from dca_runtime.measuring.bench_batches import measure_batches

    if arguments.depth is not None:
        raise InputError("-d is for one sequence: leave it out or leave out -B")
    if 0 in (*arguments.prompt, *arguments.generate):
        raise InputError("with -B, -p and -n must be above 0")
    if arguments.bandwidth == 0:
        raise InputError("--bandwidth must be above 0")
    attentions = arguments.attention or ["auto"]
    settings = [
        (attention, prompt, generate)
        for attention in attentions
        for prompt in arguments.prompt
        for generate in arguments.generate
    ]
    results = []
    with opened(arguments) as model, _shown(arguments, model, len(arguments.batch) * len(settings)) as show:
        for attention, prompt, generate in settings:
            for result in measure_batches(
                model,
                arguments.batch,
                prompt,
                generate,
                arguments.shared_prompt,
                arguments.bandwidth,
                arguments.repeats or 1,
                attention,
                arguments.cache_type,
                arguments.prefill,
            ):
                results.append(result)
                show(result)
    if arguments.json is not None:
        write_json([dataclasses.asdict(result) for result in results], arguments.json)
    return EXIT_OK


BATCH_COLUMNS = {  # widths: together a line of 80
    "sequences": 9,
    "prompt": 6,
    "new": 5,
    "attention": 9,
    "prefill t/s": 11,
    "decode t/s": 10,
    "±": 6,
    "GB/s": 7,
    "of limit": 8,
}


@contextlib.contextmanager
def _shown(
    arguments: argparse.Namespace, model: "Model", total: int
) -> "Iterator[Callable[[BatchResult], None]]":
    """Takes results as they come: rows of a table at once, for the next may take minutes; or, where stdout is
    for JSON, steps of a progress bar."""
    if arguments.json == "-":
        with progress_bar("measuring") as update:
            done = itertools.count(1)
            yield lambda result: update(next(done), total)
        return
    prompt = ", one prompt for all" if arguments.shared_prompt else ""
    limit = "" if arguments.bandwidth is None else f"; the limit is {arguments.bandwidth:g} GB/s"
    title = f"{arguments.model} on {model.info.device}, tokens/s of all sequences{prompt}{limit}"
    show = row_printer(BATCH_COLUMNS, title)
    yield lambda result: show(_batch_row(result))


def _batch_row(result: "BatchResult") -> list[str]:
    return [
        str(result.sequences),
        str(result.prompt),
        str(result.generated),
        result.attention,
        f"{result.prefill_tokens_per_s:,.1f}",
        f"{result.decode_tokens_per_s:,.1f}",
        f"{result.decode_stdev:,.1f}",
        "" if result.gb_per_s is None else f"{result.gb_per_s:,.2f}",
        "" if result.share is None else f"{result.share:.0%}",
    ]
