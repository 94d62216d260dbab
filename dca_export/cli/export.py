"""dca-export: writes a GGUF file with Dual Chunk Attention from a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from dca_export.cli import _common
from dca_export.export import AUTO, ExportOptions, export_model
from dca_export.recipes import RECIPES
from dca_export.scheme_choice import SchemeOptions


def main(argv: list[str] | None = None) -> int:
    parser = _common.command_parser(
        "dca-export",
        "Writes a GGUF file whose attention reaches past the trained context (Dual Chunk Attention).",
        example="dca-export ./Llama-2-7b-hf llama2-dca.gguf --outtype q8_0\n"
        "dca-export old.gguf with-dca.gguf --chunk-size 3072 --pretraining-length 4096",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a Hugging Face model directory, or a .gguf to add the keys to",
    )
    parser.add_argument("output", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument(
        "--outtype",
        choices=[AUTO, *RECIPES],
        default=AUTO,
        help="type of the matrices (default: auto, the checkpoint's own 16-bit type)",
    )
    parser.add_argument(
        "--pretraining-length",
        type=_common.positive_int,
        metavar="C",
        help="tokens the model was trained on; no relative position reaches it (default: from the model)",
    )
    parser.add_argument(
        "--chunk-size", type=_common.positive_int, metavar="S", help="length of a chunk (default: 3/4 of C)"
    )
    parser.add_argument(
        "--local-window",
        type=_common.count,
        metavar="W",
        help="tokens after a chunk border that see the chunk before at exact distances (default: C - S)",
    )
    parser.add_argument("--no-dca", action="store_true", help="write no scheme: plain attention")
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf if it exists")
    _common.add_json_argument(parser)
    return _common.run(parser, _body, argv)


def _body(arguments: argparse.Namespace) -> int:
    scheme = SchemeOptions(
        not arguments.no_dca, arguments.pretraining_length, arguments.chunk_size, arguments.local_window
    )
    options = ExportOptions(arguments.outtype, scheme)
    with _common.progress_bar(f"writing {arguments.output.name}") as update:
        summary = export_model(arguments.model, arguments.output, options, arguments.force, update)
    if arguments.json != "-":
        print("\n".join([f"wrote    {arguments.output}", *summary.lines()]))
    if arguments.json:
        _common.write_json(summary.as_json(), arguments.json)
    return _common.EXIT_OK
