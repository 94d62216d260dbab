"""dca-export imatrix: what flows into a model's matrices while it reads a text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dca_export.cli.shared import argument_types, command, display, outputs
from dca_export.cli.shared.reading import text_of
from dca_export.cli.shared.runtime import opened
from dca_export.errors import InputError
from dca_export.export.output_file import check_apart, check_output, directory_beside, move_into_place
from dca_export.importance.collect import collect
from dca_export.importance.file import write_importance

DEFAULT_WINDOW = 512  # tokens: llama.cpp's


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command.command_parser(
        "dca-export imatrix",
        "Writes an importance matrix (llama.cpp's imatrix, as GGUF): for each column of each matrix, the "
        "squares of what flows into it while the model reads a text. dca-export --imatrix and llama-quantize "
        "use it.",
        example="dca-export imatrix model-f16.gguf book.txt model.imatrix.gguf\n"
        "dca-export imatrix model-dca.gguf book.txt long.imatrix.gguf --window 32768",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a .gguf file, best in f16, bf16 or q8_0")
    parser.add_argument("text", metavar="TEXT", help="the text to read, UTF-8; - for standard input")
    parser.add_argument("output", metavar="OUT", type=Path, help="the file to write")
    parser.add_argument(
        "--window",
        type=argument_types.positive_int,
        default=DEFAULT_WINDOW,
        metavar="N",
        help="tokens read together; beyond the trained context under the file's scheme "
        f"(default: {DEFAULT_WINDOW})",
    )
    parser.add_argument(
        "--max-tokens", type=argument_types.positive_int, metavar="N", help="read no more of the text"
    )
    parser.add_argument(
        "--threads",
        type=argument_types.count,
        default=0,
        metavar="N",
        help="CPU threads (default: the physical cores)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a file that exists")
    outputs.add_json_argument(parser)
    parser.set_defaults(device="cpu", repack=True)
    return command.run(parser, _body, argv)


def _body(arguments: argparse.Namespace) -> int:
    check_output(arguments.output, arguments.force)
    for path in [arguments.model] + ([] if arguments.text == "-" else [Path(arguments.text)]):
        check_apart(arguments.output, path)
    read = None if arguments.text == "-" else arguments.text
    named = {"MODEL": arguments.model, "TEXT": read, "OUT": arguments.output}
    outputs.check_outputs({"--json": arguments.json}, named)
    for name in ("MODEL", "TEXT"):
        if named[name] is not None and outputs.same_file(arguments.output, Path(named[name])):
            raise InputError(f"{arguments.output}: would overwrite what {name} names; give another name")
    text = text_of(arguments.text)
    with opened(arguments) as model:
        ids = model.tokenize(text)[: arguments.max_tokens]
        with display.progress_bar("reading") as update:
            found = collect(model, ids, arguments.window, [Path(arguments.text).name], update)
    with directory_beside(arguments.output) as directory:
        write_importance(directory / arguments.output.name, found)
        move_into_place({directory / arguments.output.name: arguments.output}, arguments.force)
    figures = {"files": [str(arguments.output)], "tensors": len(found.sums), "windows": found.chunks}
    if arguments.json != "-":
        print(f"wrote    {arguments.output}")
        read = f"{found.chunks} windows of {arguments.window:,} tokens"
        print(f"sums     of {len(found.sums)} tensors over {read}")
    if arguments.json:
        outputs.write_json(figures, arguments.json)
    return command.EXIT_OK
