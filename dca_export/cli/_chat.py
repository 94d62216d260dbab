"""A chat on a terminal."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dca_export.cli._common import note
from dca_export.cli._reading import Reading, text_of
from dca_export.errors import InputError

if TYPE_CHECKING:
    from dca_runtime import Conversation, Generation, Sampling
    from dca_runtime.conversation import Reply

PROMPT, CONTINUED = "> ", ". "
HELP = """\
/file PATH reads a document, a line that ends in \\ goes on in the next, a pasted text is one message.
Ctrl-C stops an answer, Ctrl-D ends the chat."""


def chat(
    conversation: "Conversation",
    reading: Reading,
    tokens: int | None,
    sampling: "Sampling",
    speculate: str = "auto",
) -> None:
    """Asks and answers until Ctrl-D; what goes wrong with one question is said, and the next one asked.

    Raises KeyboardInterrupt at the second Ctrl-C in a row at the prompt.
    """
    note(HELP)
    _edit_lines()
    for message in _messages():
        try:
            if message.split(maxsplit=1)[0] == "/file":
                _add_file(conversation, message)
            else:
                _answer(conversation, message, reading, tokens, sampling, speculate)
        except KeyboardInterrupt:
            print()
            note("[stopped]")


def print_answer(reply: Iterator[str], first: str) -> None:
    """Prints pieces as they come."""
    print(first, end="", flush=True)
    for piece in reply:
        print(piece, end="", flush=True)
    print()


def _add_file(conversation: "Conversation", message: str) -> None:
    from dca_runtime import Document

    path = message.removeprefix("/file").strip().strip("'\"")
    try:
        if not path or path == "-":
            raise InputError("/file needs the PATH of a text file")
        document = Document(path, text_of(path))
        conversation.add_document(document)
        tokens = document.tokens(conversation.model.tokenizer)
        note(f"{path}: {tokens:,} tokens, read with the next question")
    except InputError as error:
        note(str(error))
    except OSError as error:
        note(f"{path}: {error.strerror or error}")


def _answer(
    conversation: "Conversation",
    message: str,
    reading: Reading,
    tokens: int | None,
    sampling: "Sampling",
    speculate: str,
) -> None:
    from dca_runtime import DcaError, Status

    context = conversation.session.info.context
    try:
        reply = conversation.reply(message, tokens, sampling, speculate=speculate)
        if reply.dropped:
            note(
                f"[the context of {context:,} tokens is full: the oldest {_turns(reply.dropped)} left out; "
                "--context N keeps more]"
            )
        with reading.of(conversation.session, reply.generation.prompt_tokens):
            first = next(reply, "")
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
    _note_end(reply, conversation, tokens)


def _note_end(reply: "Reply", conversation: "Conversation", tokens: int | None) -> None:
    generation, info = reply.generation, conversation.session.info
    note(speed(generation))
    if generation.finish_reason == "length" and len(generation.ids) != tokens:
        note(
            f"[the context of {info.context:,} tokens is full, which ended the answer; the next question "
            "drops the oldest turns, --context N keeps more]"
        )


def speed(generation: "Generation") -> str:
    """How fast a prompt was read and an answer generated."""
    parts = []
    if generation.prompt_seconds:
        rate = generation.prompt_tokens / generation.prompt_seconds
        parts.append(f"prompt {generation.prompt_tokens} tokens, {rate:,.0f} tokens/s")
    if generation.decoded_tokens:
        rate = generation.decoded_tokens / generation.decode_seconds
        guesses = generation.guesses
        of_these = (
            f" ({guesses.right} of {guesses.guessed} guesses right)" if guesses and guesses.guessed else ""
        )
        parts.append(f"generated {len(generation.ids)} tokens{of_these}, {rate:,.1f} tokens/s")
    return f"[{'; '.join(parts)}]"


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
