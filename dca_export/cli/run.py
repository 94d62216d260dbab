"""dca-run: generates text, once or in a chat, also about documents."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import count, finite_float, positive_int, seed
from dca_export.cli.shared.command import EXIT_OK, command_parser, run
from dca_export.cli.shared.display import note
from dca_export.cli.shared.documents import Group, documents_at, ordered
from dca_export.cli.shared.reading import Reading, text_of
from dca_export.cli.shared.runtime import add_model_arguments, attention, density_note, note_active, opened
from dca_export.cli.shared.store import add_store_arguments, opened_store
from dca_export.errors import InputError
from dca_runtime.options import SPECULATIONS

if TYPE_CHECKING:
    from dca_runtime import Document, Model, Sampling, Session

EXAMPLE = """
dca-run model.gguf -p "Once upon a time" -n 64
dca-run hf:bartowski/SmolLM2-360M-Instruct-GGUF --chat
dca-run model.gguf --doc book.txt "Who is the murderer?"
dca-run model.gguf --chat -f question.txt --temp 0
dca-run model.gguf --chat
"""

ORDER_TOKENS = 8  # a document, that the cuts between them may differ by from order to order
CHAT_CONTEXT = 8192  # tokens beside documents; a chat does not know how long it will be


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_parser(
        "dca-run",
        "Continues a prompt (-p), answers a question, also about documents (--doc), or holds a chat "
        "(--chat on a terminal).",
        EXAMPLE,
        last="question",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "question", nargs="?", metavar="QUESTION", help="what to answer, in the model's chat template"
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="what to continue, or with --chat to answer")
    prompt.add_argument("-f", "--file", metavar="FILE", help="read the prompt from FILE (-: standard input)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument(
        "--doc",
        action="append",
        default=[],
        metavar="PATH",
        help="what the question or the chat is about: text, Markdown, HTML, PDF, or a folder of source and "
        "other text (as often as wanted; the order that shares most with what was read before is taken)",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system message of a chat (empty: an empty one)")
    parser.add_argument(
        "-n",
        "--tokens",
        type=_tokens,
        default=256,
        metavar="N",
        help="tokens to generate at most, -1: until the context is full (default: 256)",
    )
    parser.add_argument(
        "--context",
        type=positive_int,
        metavar="N",
        help="tokens to keep (default: what prompt and -n need; in a chat on a terminal "
        f"{CHAT_CONTEXT} and the documents)",
    )
    parser.add_argument(
        "--attention",
        type=attention,
        default="auto",
        metavar="NAME",
        help="plain, dca, intra, intra+inter, string:BORDER/LOCAL, streaming:SINKS/WINDOW or "
        "lm-infinite:SINKS/WINDOW (default: auto, the file's own)",
    )
    add_store_arguments(parser)
    parser.add_argument(
        "--speculate",
        choices=SPECULATIONS,
        default="auto",
        help="lookup: guess what the text quotes from itself, and check guesses in one step; the answer "
        "stays the same, on a card but for near ties (default: auto, which is lookup)",
    )
    sampling = parser.add_argument_group("sampling", "Defaults: what the file recommends, else those named.")
    sampling.add_argument("--temp", type=finite_float, help="0: always the likeliest (default: 0.7)")
    sampling.add_argument("--top-k", type=count, help="default: 0, off")
    sampling.add_argument("--top-p", type=finite_float, help="default: 1, off")
    sampling.add_argument("--min-p", type=finite_float, help="default: 0.05")
    sampling.add_argument("--repeat-penalty", type=finite_float, help="default: 1, off")
    sampling.add_argument("--seed", type=seed, help="repeats a text (default: a different one each time)")
    return run(parser, _run, argv)


def _tokens(text: str) -> int:
    return -1 if text == "-1" else count(text)


def _run(arguments: argparse.Namespace) -> int:
    from dca_runtime import Sampling

    if arguments.question is not None:
        if arguments.prompt is not None or arguments.file is not None:
            raise InputError(f"{arguments.question!r}: a question does not go with -p or -f")
        arguments.prompt, arguments.chat = arguments.question, True
    arguments.chat = arguments.chat or bool(arguments.doc)
    if arguments.system is not None and not arguments.chat:
        raise InputError("--system needs --chat")
    prompt = _prompt(arguments)
    for text in (prompt, arguments.system):
        if text is not None and not text.isascii():
            _check_typed(text)
    asked = {
        "temperature": arguments.temp,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repeat_penalty": arguments.repeat_penalty,
        "seed": arguments.seed,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    Sampling(**asked)  # a wrong value is said before anything is loaded
    groups = documents_at(arguments.doc)
    with opened(arguments) as model:
        sampling = model.sampling(**asked)
        if prompt is None:
            _chat(model, arguments, sampling, groups)
        else:
            _generate(model, arguments, sampling, prompt, groups)
    return EXIT_OK


def _check_typed(text: str) -> None:
    """Bytes of an argument that are not UTF-8 are surrogates in Python. Raises InputError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = len(text[: error.start].encode())
        raise InputError(f"the prompt or --system is not UTF-8 text (byte {place})") from error


def _prompt(arguments: argparse.Namespace) -> str | None:
    """The prompt, or None for a chat on the terminal."""
    if arguments.prompt is not None:
        return arguments.prompt
    if arguments.file is not None:
        return text_of(arguments.file)
    if not arguments.chat:
        raise InputError("nothing to continue: give a prompt with -p or -f, or --chat")
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError("a chat without a question, -p or -f needs a terminal")
    return None


def _generate(
    model: "Model", arguments: argparse.Namespace, sampling: "Sampling", prompt: str, groups: list[Group]
) -> None:
    from dca_export.cli.shared.chat import first_piece, print_answer, speed
    from dca_runtime import DcaError, Generation, Status
    from dca_runtime.options import DEFAULT_CONTEXT

    def ids_about(documents: Sequence["Document"]) -> list[int]:
        return _opening_ids(model, arguments, documents, prompt)

    ids = ids_about(_flat(groups)) if arguments.chat else model.tokenizer.prompt_ids(prompt)
    if not ids:
        raise InputError("the prompt is empty and this model's texts begin with no special token")
    reading = Reading()
    more = DEFAULT_CONTEXT if arguments.tokens == -1 else arguments.tokens
    # Another order of the documents may take a few tokens more.
    context = arguments.context or len(ids) + more + (ORDER_TOKENS * len(groups) if len(groups) > 1 else 0)
    session = _session(model, arguments, reading, context)
    with opened_store(arguments, model, session, len(ids)) as prompts:
        if prompts is not None and len(groups) > 1:
            ids = ids_about(_flat(ordered(groups, ids_about, prompts)))
        model.warn_if_untrained(session, len(ids))
        generation = Generation(
            session,
            model.tokenizer,
            ids,
            arguments.tokens,
            sampling,
            speculate=arguments.speculate,
            prompts=prompts,
            on_read=reading.on_read,
        )
        try:
            first, seconds = first_piece(generation, generation, reading, prompts)
            print_answer(generation, first)
        except DcaError as error:
            if error.status == Status.CONTEXT:
                raise InputError(f"{error} (--context N)") from error
            raise
        note(f"[{speed(generation, seconds)}]")
        density_note(session)


def _chat(model: "Model", arguments: argparse.Namespace, sampling: "Sampling", groups: list[Group]) -> None:
    from dca_export.cli.shared.chat import Chat
    from dca_runtime import Conversation

    reading = Reading()
    needed = CHAT_CONTEXT + sum(document.tokens(model.tokenizer) for document in _flat(groups))
    session = _session(model, arguments, reading, arguments.context or needed)
    with opened_store(arguments, model, session, session.info.context) as prompts:
        if prompts is not None:
            groups = ordered(groups, lambda some: _opening_ids(model, arguments, some, ""), prompts)
        conversation = Conversation(model, session, arguments.system, _flat(groups))
        Chat(conversation, reading, arguments.tokens, sampling, prompts, arguments.speculate).run()


def _opening_ids(
    model: "Model", arguments: argparse.Namespace, documents: Sequence["Document"], question: str
) -> list[int]:
    """The prompt of a first question."""
    from dca_runtime.conversation import opening

    text = model.apply_chat_template(opening(arguments.system, documents, question))
    return model.tokenizer.prompt_ids(text)


def _flat(groups: Sequence[Group]) -> list["Document"]:
    return [document for group in groups for document in group]


def _session(model: "Model", arguments: argparse.Namespace, reading: Reading, context: int) -> "Session":
    session = model.session(
        context=context,
        attention=arguments.attention,
        cache_type=arguments.cache_type,
        prefill=arguments.prefill,
        progress=reading.progress,
    )
    note_active(model, session)
    return session
