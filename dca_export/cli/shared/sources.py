"""Models as commands are given them: paths, and names on the Hugging Face Hub (hf:ORGANISATION/NAME)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dca_export.cli.shared.display import note, progress_bar
from dca_export.errors import InputError
from dca_export.hub.names import EXPECTED, is_hub_name, parse
from dca_runtime.model_file.model_path import hub_hint

PathLike = TypeVar("PathLike", str, Path)

HUB_HELP = f"or {EXPECTED}"


@dataclass(frozen=True)
class Source:
    """What an export reads, and the entries that say where it came from."""

    path: Path
    origin: dict[str, Any] = field(default_factory=dict)


def check_source(path: str | Path) -> None:
    """Raises InputError if nothing is at ``path``; says how to fetch what looks like a name on the Hub."""
    if not Path(path).exists():
        raise InputError(
            f"{path}: no such file or directory; expected a Hugging Face model or a .gguf file"
            f"{hub_hint(str(path))}"
        )


def source_of(given: str | Path) -> Source:
    """The checkpoint's directory, or the GGUF file, to export from; fetched if it is a name on the Hub.

    Of a repository with both the checkpoint is taken, unless the name picks a file. Raises InputError.
    """
    if not is_hub_name(given):
        return Source(Path(given))
    from dca_export.gguf.origin_keys import origin_entries
    from dca_export.hub.choice import checkpoint_files, chosen_gguf
    from dca_export.hub.fetch import fetch, look

    name = parse(given)
    found = look(name)
    files = [] if name.file else checkpoint_files(name, found.files)
    if files:
        note(f"{name}: commit {found.commit}")
        return Source(fetch(found, files), origin_entries(name.repository, found.commit))
    gguf = chosen_gguf(name, found.files)
    if gguf is None:
        raise InputError(
            f"{name}: holds no checkpoint (config.json with safetensors or .bin) and no GGUF file"
        )
    note(f"{name}: {gguf}, commit {found.commit}")
    return Source(fetch(found, [gguf]) / gguf, origin_entries(name.repository, found.commit, gguf))


def model_file(given: PathLike) -> PathLike:
    """The GGUF file to run. Raises InputError.

    A name on the Hub means the repository's GGUF file, fetched; where there is none its checkpoint is
    exported, once, into this program's cache.
    """
    if not is_hub_name(given):
        return given
    from dca_export.hub.choice import checkpoint_files, chosen_gguf, gguf_files
    from dca_export.hub.fetch import fetch, look

    name = parse(given)
    found = look(name)
    gguf = chosen_gguf(name, found.files)
    if gguf is not None:
        others = len(gguf_files(found.files)) - 1
        more = (
            f" ({others} others: hf:{name.repository}/FILE.gguf picks one)"
            if others and not name.file
            else ""
        )
        note(f"{name}: {gguf}{more}, commit {found.commit}")
        return type(given)(fetch(found, [gguf]) / gguf)
    files = checkpoint_files(name, found.files)
    if not files:
        raise InputError(
            f"{name}: holds no GGUF file in one part and no checkpoint (config.json with weights)"
        )
    return type(given)(_exported(name.repository, found.commit, lambda: fetch(found, files)))


def _exported(repository: str, commit: str, directory: Any) -> Path:
    """The GGUF file that was made, or is made now, of a checkpoint that ``directory()`` fetches."""
    from dca_export.export.plan import ExportOptions
    from dca_export.export.write import export_model
    from dca_export.gguf.origin_keys import origin_entries
    from dca_export.hub.fetch import cache_directory
    from dca_runtime.version import __version__

    name = repository.rpartition("/")[2]
    output = (
        cache_directory() / repository.replace("/", "--") / f"{commit[:12]}-{__version__}" / f"{name}.gguf"
    )
    if output.is_file():
        return output
    source = directory()
    output.parent.mkdir(parents=True, exist_ok=True)
    note(f"hf:{repository} has no GGUF file: exporting one, with its scheme, to {output}")
    options = ExportOptions(extra=origin_entries(repository, commit))
    with progress_bar(f"writing {output.name}") as update:
        export_model(source, output, options, force=True, progress=update)
    return output
