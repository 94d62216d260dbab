"""A chat on a terminal."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dca_export.cli.shared.display import note
from dca_export.cli.shared.documents import documents_at
from dca_export.cli.shared.reading import Reading
from dca_export.documents.read import at_home
from dca_export.errors import InputError
from dca_export.export.summary import size

if TYPE_CHECKING:
    from dca_runtime import Conversation, Generation, Sampling
    from dca_runtime.conversation import Reply
    from dca_runtime.prompt_store import Prompts

PROMPT, CONTINUED = "> ", ". "
HELP = """\
/file PATH reads a document or a folder, /save PATH writes the messages, /forget starts over, /stats tells
figures; a line that ends in \\ goes on in the next, a pasted text is one message.
Ctrl-C stops an answer, Ctrl-D ends the chat."""


class Chat:
    """Asks and answers until Ctrl-D; what goes wrong with one question is said, and the next one asked."""

    def __init__(
        self,
        conversation: "Conversation",
        reading: Reading,
        tokens: int | None,
        sampling: "Sampling",
        prompts: "Prompts | None",
        speculate: str = "auto",
    ) -> None:
        """prompts: a store to read through; None: none. speculate: as ``Generation`` takes it."""
        self._conversation = conversation
        self._reading = reading
        self._tokens = tokens
        self._sampling = sampling
        self._prompts = prompts
        self._speculate = speculate
        self._last = ""  # figures of the last answer
        self._commands: dict[str, Callable[[str], None]] = {
            "/file": self._add_file,
            "/save": self._save,
            "/forget": self._forget,
            "/stats": self._stats,
        }

    def run(self) -> None:
        """Raises KeyboardInterrupt at the second Ctrl-C in a row at the prompt."""
        note(HELP)
        _edit_lines()
        for message in _messages():
            word = message.split(maxsplit=1)[0]
            try:
                if word in self._commands:
                    self._commands[word](message.removeprefix(word).strip().strip("'\""))
                else:
                    self._answer(message)
            except KeyboardInterrupt:
                print()
                note("[stopped]")
            except InputError as error:
                note(str(error))
            except OSError as error:
                note(f"{error.filename or word}: {error.strerror or error}")

    def _add_file(self, path: str) -> None:
        if not path or path == "-":
            raise InputError("/file needs the PATH of a document or a folder")
        [documents] = documents_at([path])
        for document in documents:
            self._conversation.add_document(document)
        tokens = sum(document.tokens(self._conversation.model.tokenizer) for document in documents)
        files = f"{len(documents)} files, " if len(documents) > 1 else ""
        note(f"{path}: {files}{tokens:,} tokens, read with the next question")

    def _save(self, path: str) -> None:
        if not path:
            raise InputError("/save needs the PATH of a file to write")
        place = at_home(path)
        text = json.dumps(self._conversation.messages, ensure_ascii=False, indent=2) + "\n"
        # What was said is its owner's alone; a file that is there stays.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        note(f"{path}: {_count(len(self._conversation.turns), 'question')} and the answers, as JSON")

    def _forget(self, _: str) -> None:
        session = self._conversation.session
        kept = min(self._conversation.forget(), session.length)
        if self._prompts is not None:
            self._prompts.forget(session.ids.tolist(), kept)
        session.truncate(kept)
        self._last = ""
        note("[forgotten, also in the store; the next question begins a new conversation]")

    def _stats(self, _: str) -> None:
        session, prompts = self._conversation.session, self._prompts
        info = session.info
        note(
            f"context: {info.length:,} of {info.context:,} tokens, keys and values {size(info.cache_bytes)}, "
            f"work space {size(info.scratch_bytes)}"
        )
        if self._last:
            note(f"last answer: {self._last}")
        if prompts is None:
            return
        prompts.flush()
        note(
            f"store: holds {prompts.find(session.ids):,} tokens of this conversation, of which this program "
            f"wrote {_count(prompts.written, 'page')} of {size(prompts.page_bytes)}; {prompts.folder}"
        )
        if prompts.speed is not None and info.length:
            slowest = prompts.speed.slowest_disk(prompts.page_bytes, 0, info.length)
            note(f"below {size(int(slowest))}/s of the disk reading again is faster, and is done")

    def _answer(self, message: str) -> None:
        from dca_runtime import DcaError, Status

        conversation, prompts, reading = self._conversation, self._prompts, self._reading
        context = conversation.session.info.context
        try:
            reply = conversation.reply(
                message,
                self._tokens,
                self._sampling,
                speculate=self._speculate,
                prompts=prompts,
                on_read=reading.on_read,
            )
            if reply.dropped:
                note(
                    f"[the context of {context:,} tokens is full: the oldest {_turns(reply.dropped)} left "
                    "out; --context N keeps more]"
                )
            first, seconds = first_piece(reply, reply.generation, reading, prompts)
        except DcaError as error:
            note(f"{error} (--context N)" if error.status == Status.CONTEXT else str(error))
            return
        try:
            print_answer(reply, first)
        except KeyboardInterrupt:
            print()
        except DcaError as error:
            print()
            note(str(error))
        self._last = speed(reply.generation, seconds)
        self._note_end(reply)

    def _note_end(self, reply: "Reply") -> None:
        generation, info = reply.generation, self._conversation.session.info
        note(f"[{self._last}]")
        if generation.finish_reason == "length" and len(generation.ids) != self._tokens:
            note(
                f"[the context of {info.context:,} tokens is full, which ended the answer; the next question "
                "drops the oldest turns, --context N keeps more]"
            )


def first_piece(
    pieces: Iterator[str], generation: "Generation", reading: Reading, prompts: "Prompts | None"
) -> tuple[str, float]:
    """The answer's first piece, for which the prompt is read, and the seconds until it came."""
    began = time.monotonic()
    ids = [*generation.session.ids.tolist(), *generation.prompt]
    with reading.of(generation.session, ids, prompts):
        first = next(pieces, "")
    return first, time.monotonic() - began


def print_answer(reply: Iterator[str], first: str) -> None:
    """Prints pieces as they come."""
    print(first, end="", flush=True)
    for piece in reply:
        print(piece, end="", flush=True)
    print()


def speed(generation: "Generation", first: float) -> str:
    """How fast a prompt was read, whose first token came after ``first`` seconds, and an answer generated."""
    parts = []
    if generation.prompt_seconds:
        rate = generation.prompt_tokens / generation.prompt_seconds
        stored = f", {generation.stored_tokens:,} of them stored" if generation.stored_tokens else ""
        parts.append(
            f"prompt {generation.prompt_tokens} tokens{stored}, first token after {first:,.2f} s, "
            f"{rate:,.0f} tokens/s"
        )
    if generation.decoded_tokens:
        rate = generation.decoded_tokens / generation.decode_seconds
        guesses = generation.guesses
        of_these = (
            f" ({guesses.right} of {guesses.guessed} guesses right)" if guesses and guesses.guessed else ""
        )
        parts.append(f"generated {len(generation.ids)} tokens{of_these}, {rate:,.1f} tokens/s")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _turns(count: int) -> str:
    return "question and its answer are" if count == 1 else f"{count} questions and their answers are"


def _messages() -> Iterator[str]:
    """What is typed, without empty messages, until Ctrl-D."""
    interrupted = False
    while True:
        try:
            message = _message()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            print()
            note("[Ctrl-C again, or Ctrl-D, ends the chat]")
            continue
        except UnicodeError:
            note("[that was not UTF-8 text, so it was not asked]")
            continue
        interrupted = False
        if message.strip():
            yield message.strip()


def _message() -> str:
    """One message; UnicodeError if it holds bytes that are no text."""
    lines = [input(PROMPT)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(CONTINUED))
    message = "\n".join(lines)
    message.encode()
    return message


def _edit_lines() -> None:
    """Arrow keys, history, long lines, several lines pasted at once: readline, where there is one."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")
            readline.parse_and_bind(r'"\e\C-m": "\C-v\C-j"')  # Alt-Enter: a line break
