"""What is said of a path that names no model file."""

import os
import re
import stat
from pathlib import Path

from dca_runtime.errors import DcaError, Status

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # ORGANISATION/NAME, as on the Hugging Face Hub


def check_path(path: str) -> None:
    """Raises DcaError: nothing is there, or something that is no regular file (a FIFO would block for ever).

    The message says what to do where the path is a directory or looks like a name on the Hub.
    """
    if not path:
        raise DcaError("the name of the model is empty, expected that of a GGUF file", Status.IO)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise DcaError(f"{path}: no such file{hub_hint(path)}", Status.IO) from None
    except (OSError, ValueError):
        return  # for the library to say
    if stat.S_ISDIR(mode):
        raise DcaError(f"{path}: a directory, expected a GGUF file{_directory_hint(Path(path))}", Status.IO)
    if not stat.S_ISREG(mode):
        raise DcaError(f"{path}: no regular file; a model is mapped, not read as a stream", Status.IO)


def hub_hint(path: str) -> str:
    """How to fetch it, if ``path`` looks like a model's name on the Hugging Face Hub; else nothing."""
    name = path.removesuffix("/")
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf") or os.path.isdir(name.partition("/")[0]):
        return ""
    directory = name.partition("/")[2]
    return (
        f"; if that is a model on the Hugging Face Hub, name it hf:{name}: dca-run hf:{name}, or dca-export "
        f"hf:{name} {directory}.gguf"
    )


def _directory_hint(directory: Path) -> str:
    files = sorted(directory.glob("*.gguf"))
    if files:
        return f", perhaps {files[0]}"
    if (directory / "config.json").is_file():
        return f"; make one of this checkpoint: dca-export {directory} {directory.resolve().name}.gguf"
    return ""
