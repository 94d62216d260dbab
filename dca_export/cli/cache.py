"""dca-cache: shows what dca-run has kept of the prompts it read, and removes it."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dca_export.cli.shared.argument_types import disk_size, finite_float
from dca_export.cli.shared.command import EXIT_OK, command_parser, run
from dca_export.cli.shared.display import print_table
from dca_export.cli.shared.outputs import add_json_argument, check_outputs, write_json
from dca_export.cli.shared.store import add_directory_argument
from dca_export.errors import InputError
from dca_export.export.summary import size
from dca_runtime.attention import Attention

if TYPE_CHECKING:
    from dca_runtime.prompt_store.contents import SetupContents
    from dca_runtime.prompt_store.directory import Directory

EXAMPLE = """
dca-cache list
dca-cache show 7a9b7417
dca-cache prune --size 5G --older 30
dca-cache clear
"""

_DAY = 86400.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_parser(
        "dca-cache",
        "Shows what dca-run has kept of the prompts it read, and removes it. The keys and values of a prompt "
        "belong to a setup: a model's file, its attention, cache type and kind of device.",
        EXAMPLE,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, body, help in (
        ("list", _list, "a line for each setup, the last used first"),
        ("show", _show, "one setup: its lines, prompts and files"),
        ("prune", _prune, "remove what was not used for the longest, and what is damaged"),
        ("clear", _clear, "remove everything, or one setup"),
    ):
        example = next(line for line in EXAMPLE.splitlines() if f" {name}" in line)
        action = actions.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.set_defaults(body=body)
        add_directory_argument(action)
        add_json_argument(action)
        if name == "show":
            action.add_argument("setup", metavar="SETUP", help="the setup, as list names it")
        if name == "clear":
            action.add_argument("setup", nargs="?", metavar="SETUP", help="the setup, as list names it")
        if name == "prune":
            action.add_argument(
                "--size",
                type=disk_size,
                metavar="SIZE",
                help="until so much is left, like 5G (default: the store's size)",
            )
            action.add_argument(
                "--older", type=finite_float, metavar="DAYS", help="also all that was not used for so long"
            )
    return run(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from dca_runtime.prompt_store.directory import SETTINGS, Directory, default_path

    path = arguments.cache_dir or default_path()
    check_outputs({"--json": arguments.json}, {"--cache-dir": path})
    if not (path / SETTINGS).exists():
        raise InputError(f"{path}: there is no prompt store; dca-run makes one when it reads a prompt")
    figures = arguments.body(Directory(path), arguments)
    if arguments.json is not None:
        write_json(figures, arguments.json)
    return EXIT_OK


def _list(directory: "Directory", arguments: argparse.Namespace) -> Any:
    from dca_runtime.prompt_store.contents import contents

    setups = contents(directory)
    used = sum(setup.size for setup in setups)
    if arguments.json is None:
        print(f"{directory.path}: {size(used)} of {size(directory.limit)}")
        rows = [
            [
                f"{one.name}  {one.model}",
                _kind(one),
                f"{len(one.prompts):,}",
                f"{one.tokens:,}",
                size(one.size),
                _when(one.used),
            ]
            for one in setups
        ]
        if rows:
            print_table(["setup", "attention, cache", "prompts", "tokens", "size", "last used"], rows)
    return {
        "directory": str(directory.path),
        "limit_bytes": directory.limit,
        "used_bytes": used,
        "setups": [_figures(setup) for setup in setups],
    }


def _show(directory: "Directory", arguments: argparse.Namespace) -> Any:
    setup = _named(directory, arguments.setup)
    if arguments.json is None:
        print(f"{setup.folder}")
        for line in (f"name {setup.model}", *setup.lines):
            print(f"  {line}")
        print(f"prompts: {', '.join(f'{tokens:,} tokens' for tokens in setup.prompts) or 'none'}")
        figures = _figures(setup)
        if setup.speed is not None and figures["slowest_disk_bytes_per_s"] is not None:
            longest = max(setup.prompts)
            rate = longest / setup.speed.seconds(0, longest)
            slowest = size(int(figures["slowest_disk_bytes_per_s"]))
            print(
                f"reading: {rate:,.0f} tokens/s over {longest:,} tokens, "
                f"so loading is faster from {slowest}/s of the disk on"
            )
        rows = [
            [
                file.path.name,
                f"{file.pages:,}" if file.header is not None else "damaged",
                size(file.size),
                _when(file.used),
            ]
            for file in sorted(setup.files, key=lambda file: file.used, reverse=True)
        ]
        if rows:
            print_table(["file", "pages", "size", "last used"], rows)
    return _figures(setup) | {
        "lines": list(setup.lines),
        "files": [
            {
                "name": file.path.name,
                "pages": file.pages,
                "bytes": file.size,
                "used": file.used,
                "damaged": file.header is None,
            }
            for file in setup.files
        ],
    }


def _prune(directory: "Directory", arguments: argparse.Namespace) -> Any:
    from dca_runtime.prompt_store import eviction
    from dca_runtime.prompt_store.contents import contents

    damaged = {file.path for one in contents(directory) for file in one.files if file.header is None}
    oldest = time.time() - (arguments.older or 0) * _DAY if arguments.older is not None else 0.0
    with directory.lock():
        files = eviction.stored_files(directory)
        unwanted = [file for file in files if file.path in damaged or file.used < oldest]
        gone, _ = eviction.shrink(unwanted, 0)
        left = [file for file in files if file not in gone]
        most = directory.limit if arguments.size is None else arguments.size
        more, _ = eviction.shrink(left, most)
    return _removed(directory, [*gone, *more], arguments)


def _clear(directory: "Directory", arguments: argparse.Namespace) -> Any:
    from dca_runtime.prompt_store import eviction

    folders = directory.setup_folders()
    if arguments.setup is not None:
        folders = [_named(directory, arguments.setup).folder]
    with directory.lock():
        files = [file for file in eviction.stored_files(directory) if file.path.parent in folders]
        gone, _ = eviction.shrink(files, 0)
        eviction.remove_empty(folders)
    return _removed(directory, gone, arguments)


def _removed(directory: "Directory", gone: Sequence[Any], arguments: argparse.Namespace) -> Any:
    from dca_runtime.prompt_store import eviction

    left = eviction.stored_files(directory)
    figures = {
        "directory": str(directory.path),
        "removed_files": len(gone),
        "removed_bytes": sum(file.size for file in gone),
        "left_bytes": sum(file.size for file in left),
    }
    if arguments.json is None:
        removed, kept = size(sum(file.size for file in gone)), size(sum(file.size for file in left))
        print(f"{directory.path}: {removed} removed, {kept} left")
    return figures


def _named(directory: "Directory", name: str) -> "SetupContents":
    from dca_runtime.prompt_store.contents import contents

    setups = [one for one in contents(directory) if one.folder.name.startswith(name)] if name else []
    if len(setups) != 1:
        raise InputError(
            f"{name}: {'no setup' if not setups else 'more than one setup'} in {directory.path} begins so; "
            "dca-cache list names them"
        )
    return setups[0]


def _figures(setup: "SetupContents") -> dict[str, Any]:
    prompts = setup.prompts
    slowest = None
    if setup.speed is not None and prompts:
        page_bytes = next(file.header.page_bytes for file in setup.files if file.header is not None)
        slowest = setup.speed.slowest_disk(page_bytes, 0, max(prompts))
    return {
        "setup": setup.name,
        "folder": str(setup.folder),
        "model": setup.model,
        "prompts": prompts,
        "tokens": setup.tokens,
        "bytes": setup.size,
        "used": setup.used,
        "slowest_disk_bytes_per_s": slowest,
    }


def _kind(setup: "SetupContents") -> str:
    """Attention and layout in short."""
    lines = dict(line.partition(" ")[::2] for line in setup.lines)
    attention = lines.get("attention", "")
    words = attention.split()
    if words[1:4:2] == ["window", "beyond"]:
        attention = Attention(words[0], int(words[2]), int(words[4])).name
    elif len(words) >= 6:
        attention = f"DCA {words[1]}/{words[3]}/{words[5]}"
    return f"{attention}, {', '.join(lines.get('layout', '').split(', ')[:2])}"


def _when(used: float | None) -> str:
    return "" if used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(used))


if __name__ == "__main__":
    raise SystemExit(main())
