"""dca-run: generates text, once or in a chat, also about documents."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dca_export.cli._common import (
    EXIT_OK,
    command_parser,
    count,
    finite_float,
    note,
    positive_int,
    run,
)
from dca_export.cli._reading import Reading, text_of
from dca_export.cli._runtime import add_model_arguments, density_note, note_active, opened
from dca_export.errors import InputError
from dca_runtime.options import ATTENTIONS, SPECULATIONS

if TYPE_CHECKING:
    from dca_runtime import Document, Model, Sampling, Session

EXAMPLE = """
dca-run model.gguf -p "Once upon a time" -n 64
dca-run hf:bartowski/SmolLM2-360M-Instruct-GGUF --chat
dca-run model.gguf --doc book.txt "Who is the murderer?"
dca-run model.gguf --chat -f question.txt --temp 0
dca-run model.gguf --chat
"""

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
        metavar="FILE",
        help="a document that the question or the chat is about (as often as wanted)",
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
        "--attention", choices=ATTENTIONS, default="auto", help="default: auto, the file's own"
    )
    parser.add_argument(
        "--speculate",
        choices=SPECULATIONS,
        default="auto",
        help="lookup: guess what the text quotes from itself, and check guesses in one step; the answer "
        "stays the same (default: auto, lookup on the CPU)",
    )
    sampling = parser.add_argument_group("sampling", "Defaults: what the file recommends, else those named.")
    sampling.add_argument("--temp", type=finite_float, help="0: always the likeliest (default: 0.7)")
    sampling.add_argument("--top-k", type=count, help="default: 0, off")
    sampling.add_argument("--top-p", type=finite_float, help="default: 1, off")
    sampling.add_argument("--min-p", type=finite_float, help="default: 0.05")
    sampling.add_argument("--repeat-penalty", type=finite_float, help="default: 1, off")
    sampling.add_argument("--seed", type=count, help="repeats a text (default: a different one each time)")
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
    documents = [_document(path) for path in arguments.doc]
    with opened(arguments) as model:
        sampling = model.sampling(**asked)
        for document in documents:
            note(f"{document.name}: {document.tokens(model.tokenizer):,} tokens")
        if prompt is None:
            _chat(model, arguments, sampling, documents)
        else:
            _generate(model, arguments, sampling, prompt, documents)
    return EXIT_OK


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


def _document(path: str) -> "Document":
    from dca_runtime import Document

    return Document(path, text_of(path))


def _generate(
    model: "Model",
    arguments: argparse.Namespace,
    sampling: "Sampling",
    prompt: str,
    documents: Sequence["Document"],
) -> None:
    from dca_export.cli._chat import print_answer, speed
    from dca_runtime import DcaError, Generation, Status
    from dca_runtime.conversation import opening
    from dca_runtime.options import DEFAULT_CONTEXT

    text = (
        model.apply_chat_template(opening(arguments.system, documents, prompt)) if arguments.chat else prompt
    )
    ids = model.tokenizer.prompt_ids(text)
    if not ids:
        raise InputError("the prompt is empty and this model's texts begin with no special token")
    reading = Reading()
    more = DEFAULT_CONTEXT if arguments.tokens == -1 else arguments.tokens
    session = _session(model, arguments, reading, arguments.context or len(ids) + more)
    model.warn_if_untrained(session, len(ids))
    generation = Generation(
        session, model.tokenizer, ids, arguments.tokens, sampling, speculate=arguments.speculate
    )
    try:
        with reading.of(session, len(ids)):
            first = next(generation, "")
        print_answer(generation, first)
    except DcaError as error:
        if error.status == Status.CONTEXT:
            raise InputError(f"{error} (--context N)") from error
        raise
    note(speed(generation))
    density_note(session)


def _chat(
    model: "Model", arguments: argparse.Namespace, sampling: "Sampling", documents: Sequence["Document"]
) -> None:
    from dca_export.cli._chat import chat
    from dca_runtime import Conversation

    reading = Reading()
    needed = CHAT_CONTEXT + sum(document.tokens(model.tokenizer) for document in documents)
    session = _session(model, arguments, reading, arguments.context or needed)
    conversation = Conversation(model, session, arguments.system, documents)
    chat(conversation, reading, arguments.tokens, sampling, arguments.speculate)


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
