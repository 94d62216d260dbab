"""dca-parity: is the native runtime right?"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import positive_int
from dca_export.cli.shared.command import EXIT_CHECK_FAILED, EXIT_OK, command_parser, run
from dca_export.cli.shared.display import print_table, progress_bar
from dca_export.cli.shared.outputs import add_json_argument, check_outputs, write_json
from dca_export.cli.shared.runtime import add_machine_arguments, opened, prefill
from dca_export.cli.shared.sources import check_source, source_of
from dca_export.errors import InputError, MissingPackage
from dca_runtime.options import CACHE_TYPES

if TYPE_CHECKING:
    from dca_export.parity.check import Part, Report
    from dca_export.parity.chosen import Chosen
    from dca_export.parity.facts import Facts
    from dca_runtime import Model

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
        "are dequantised, which judges the runtime; with it the export is judged too, by limits of its own.",
        EXAMPLE,
    )
    parser.add_argument("model", metavar="OUT.gguf", type=Path, help="the file to check")
    parser.add_argument(
        "--reference", metavar="MODEL", type=Path, help="the original checkpoint: judges the export too"
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
        "--prefill",
        type=prefill,
        default="dense",
        metavar="MODE",
        help="sparse, sparse:ALPHA, sparse:ALPHA:FROM or stated: checks that prefill instead, the attention "
        "over what the runtime chose, and its choices (default: dense)",
    )
    parser.add_argument(
        "--attention",
        metavar="METHOD,…",
        help="checks these instead of what the file states: plain, dca, string:BORDER/LOCAL, "
        "streaming:SINKS/WINDOW, lm-infinite:SINKS/WINDOW, with @linear:F, @ntk:F, @yarn:F or @dynamic:F "
        "behind one for another RoPE scaling",
    )
    parser.add_argument(
        "--text", metavar="FILE", type=Path, help="text to take the tokens from (default: one in Python)"
    )
    add_json_argument(parser)
    return run(parser, _parity, argv)


def _parity(arguments: argparse.Namespace) -> int:
    inputs = {"OUT.gguf": arguments.model, "--text": arguments.text, "--reference": arguments.reference}
    check_outputs({"--json": arguments.json}, inputs)
    if arguments.text is not None and arguments.text.is_fifo():
        raise InputError(f"--text {arguments.text}: is a pipe, and is read several times; give a file")
    if arguments.reference is not None:
        if arguments.prefill != "dense":
            raise InputError("--prefill judges the runtime, --reference the export: leave one of them out")
        if arguments.attention is not None:
            raise InputError("--attention judges the runtime, --reference the export: leave one of them out")
        arguments.reference = source_of(arguments.reference).path
        check_source(arguments.reference)
    if arguments.attention is not None and arguments.prefill != "dense":
        raise InputError("--attention names methods of dense prefill: leave --prefill out")
    try:
        with progress_bar("importing PyTorch"):
            import transformers

            from dca_export.parity.torch_reference import TorchReference
    except ImportError as error:
        raise MissingPackage(f"the reference needs the package {error.name}", "reference") from error
    transformers.logging.set_verbosity_error()  # its bars and remarks are not this command's
    transformers.logging.disable_progress_bar()
    from dca_export.gguf.file import GgufFile
    from dca_export.parity.check import check, weight_type
    from dca_export.parity.facts import Facts
    from dca_export.parity.sparse import check_sparse

    with opened(arguments) as model, progress_bar("comparing") as update:
        weights = weight_type(GgufFile(arguments.model))
        # "cuda:0 (the card's name)", of several cards "cuda:0,1 (...)": the first. auto has been decided.
        device = re.split("[ ,/]", model.info.device)[0]

        found = _print_line if arguments.json != "-" else lambda part: None
        options = {"weights": weights, "text": arguments.text, "progress": update, "found": found}
        own = TorchReference(Path(arguments.model), device, weights)
        options_of_runtime = options | {"cache_type": arguments.cache_type}
        if arguments.prefill == "dense":
            methods = None if arguments.attention is None else arguments.attention.split(",")
            runtime = check(model, own, arguments.length, methods=methods, **options_of_runtime)
        else:
            runtime = check_sparse(model, own, arguments.length, arguments.prefill, **options_of_runtime)
        export, facts = None, Facts()
        if arguments.reference is not None:
            original = TorchReference(arguments.reference, device, weights)
            rounded = not original.fits(weights)
            export = check(
                model, original, arguments.length, against_original=True, rounded=rounded, **options
            )
            facts = _facts(model, arguments)
    reports = [report for report in (runtime, export) if report is not None]
    passed = all(report.passed for report in reports) and not facts.failures
    if arguments.json is not None:
        added = {} if export is None else {"export": export.as_json(), "facts": vars(facts)}
        write_json(runtime.as_json() | added | {"passed": passed}, arguments.json)
    if arguments.json != "-":
        print(f"{runtime.file}: {weights} weights, {runtime.cache_type} cache, on {runtime.device}")
        print(f"tokens from {runtime.text}")
        _show(runtime, "The runtime, against the file's own weights")
        if export is not None:
            _show(export, "The export, against the original checkpoint")
        for note in facts.notes:
            print(f"note {note}")
        for failure in facts.failures:
            print(f"FAILED {failure}")
        if export is not None:
            print(_cost(export))
        print("passed" if passed else "FAILED")
    return EXIT_OK if passed else EXIT_CHECK_FAILED


def _print_line(part: "Part") -> None:
    """A part as soon as it is known: the next may take minutes."""
    agreement, verdict = part.agreement, "FAILED" if part.failures else "ok"
    print(
        f"{part.group}, {part.fed}, {part.cache_type} cache: {agreement.tokens:,} tokens, mean KL "
        f"{agreement.mean_kl:.2e}, top-1 {agreement.top1:.2%}, {verdict}",
        flush=True,
    )


def _cost(export: "Report") -> str:
    """What the export costs, in one line: the worst part's figures beside the verdict."""
    worst = max((part.agreement for part in export.parts), key=lambda found: found.mean_kl)
    change = worst.perplexity_runtime / worst.perplexity_reference - 1
    return (
        f"the export as {export.weights}: mean KL {worst.mean_kl:.2g}, perplexity "
        f"{worst.perplexity_reference:,.4g} -> {worst.perplexity_runtime:,.4g} ({change:+.1%}), top-1 "
        f"{worst.top1:.1%}: {'within' if export.passed else 'BEYOND'} the limits of {export.weights}"
    )


def _facts(model: "Model", arguments: argparse.Namespace) -> "Facts":
    from dca_export.parity.facts import compare_facts
    from dca_export.parity.tokens import has_tokenizer, text_for, token_ids

    ids, _ = token_ids(model, arguments.length, arguments.text)
    text = None
    if has_tokenizer(model):
        text = text_for(arguments.text)[: 16 * arguments.length]
    return compare_facts(model, arguments.reference, ids, text)


def _show(report: "Report", title: str) -> None:
    print(f"\n{title} ({report.reference})")
    for cache, limits in report.demanded.items():
        print(f"demanded with a cache in {cache}: {limits}")
    for line in sorted({_scheme_line(part) for part in report.parts if part.scheme}):
        print(line)
    columns = ["attention, fed", "cache", "tokens", "borders", "max |Δ|", "in σ", "mean |Δ|"]
    columns += ["mean KL", "max KL", "top-1", "ppl reference", "ppl runtime", "verdict"]
    print_table(columns, [_row(part) for part in report.parts])
    for part in report.parts:
        if part.chosen is not None:
            print(f"note {part.group}, {part.fed}, {part.cache_type} cache: {_chosen(part.chosen)}")
        for exemption in part.exemptions:
            print(f"exempt {part.group}, {part.fed}, {part.cache_type} cache: {exemption}")
        for failure in part.failures:
            print(f"FAILED {part.group}, {part.fed}, {part.cache_type} cache: {failure}")


def _chosen(chosen: "Chosen") -> str:
    share = f"{chosen.density:.1%} of all pairs computed"
    if not chosen.disagreements:
        return f"{share}; the reference chose the same {chosen.pages:,} times"
    return (
        f"{share}; the reference chose otherwise {chosen.disagreements} of {chosen.pages:,} times, at most "
        f"{chosen.largest_margin:.2g} from the threshold in log2"
    )


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
        part.cache_type,
        f"{found.tokens:,}",
        f"{part.borders}",
        f"{found.max_difference:.2e}",
        f"{found.relative_difference:.2e}",
        f"{found.mean_difference:.2e}",
        f"{found.mean_kl:.2e}",
        f"{found.max_kl:.2e}",
        f"{found.top1:.2%}",
        f"{found.perplexity_reference:,.4g}",
        f"{found.perplexity_runtime:,.4g}",
        "FAILED" if part.failures else "ok",
    ]
