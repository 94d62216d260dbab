"""The C API of text (dca_text.h) for tests, through cffi; the runtime does not use it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cffi

from dca_runtime import _ffi
from dca_runtime.errors import DcaError, Status

INCLUDE = Path(__file__).parents[2] / "native" / "include"
HEADERS = ("dca.h", "dca_text.h")
BEGIN, END, SPECIAL, PROMPT = 1, 2, 4, 8  # DCA_TEXT_*


def declarations() -> str:
    """What both headers declare, as plain C."""
    return "\n".join(_ffi._declarations((INCLUDE / name).read_text(encoding="utf-8")) for name in HEADERS)


ffi = cffi.FFI()
ffi.cdef(declarations())
lib = ffi.dlopen(_ffi._library())


def check(status: int) -> None:
    if status != Status.OK:
        raise DcaError(ffi.string(lib.dca_last_error()).decode(), Status(status))


class CTokenizer:
    """A file's tokenizer in C; Python's names for what it does."""

    def __init__(self, path: Path) -> None:
        handle = ffi.new("dca_tokenizer **")
        check(lib.dca_tokenizer_load(str(path).encode(), handle))
        self._handle = ffi.gc(handle[0], lib.dca_tokenizer_free)

    def tokenize(self, text: str, flags: int) -> list[int]:
        data = text.encode()
        n = ffi.new("size_t *")
        check(lib.dca_tokenize(self._handle, data, len(data), flags, ffi.NULL, 0, n))
        tokens = ffi.new("int32_t[]", n[0])
        check(lib.dca_tokenize(self._handle, data, len(data), flags, tokens, n[0], n))
        return list(tokens)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        around = (BEGIN | END) if add_special else 0
        return self.tokenize(text, around | (SPECIAL if parse_special else 0))

    def prompt_ids(self, text: str) -> list[int]:
        return self.tokenize(text, PROMPT | SPECIAL)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        bytes_ = ffi.new("size_t *")
        check(lib.dca_detokenize(self._handle, list(ids), len(ids), skip_special, ffi.NULL, 0, bytes_))
        text = ffi.new("char[]", bytes_[0] + 1)
        check(lib.dca_detokenize(self._handle, list(ids), len(ids), skip_special, text, len(text), bytes_))
        return ffi.buffer(text, bytes_[0])[:].decode()

    def pieces(self, ids: Sequence[int], after: Sequence[int] = (), skip_special: bool = True) -> list[str]:
        """What each id, and the end, makes certain."""
        stream = ffi.new("dca_text_stream **")
        check(lib.dca_text_stream_create(self._handle, list(after), len(after), skip_special, stream))
        with _freed(stream[0]):
            text, bytes_ = ffi.new("char **"), ffi.new("size_t *")
            found = []
            for id_ in ids:
                check(lib.dca_text_stream_push(stream[0], id_, text, bytes_))
                found.append(ffi.buffer(text[0], bytes_[0])[:].decode())
            check(lib.dca_text_stream_flush(stream[0], text, bytes_))
            return [*found, ffi.buffer(text[0], bytes_[0])[:].decode()]

    @property
    def end_ids(self) -> set[int]:
        tokens, n = ffi.new("int32_t **"), ffi.new("size_t *")
        check(lib.dca_tokenizer_end_tokens(self._handle, tokens, n))
        return set(tokens[0][0 : n[0]])

    @property
    def special(self) -> tuple[int, int]:
        """bos and eos, -1 for none."""
        info = ffi.new("dca_tokenizer_info *", {"size": ffi.sizeof("dca_tokenizer_info")})
        check(lib.dca_tokenizer_get_info(self._handle, info))
        return info.bos, info.eos


@contextmanager
def _freed(stream: object) -> Iterator[None]:
    try:
        yield
    finally:
        lib.dca_text_stream_free(stream)
