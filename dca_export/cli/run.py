"""dca-run: generates text, once or in a chat."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli._common import (
    EXIT_OK,
    command_parser,
    count,
    finite_float,
    note,
    positive_int,
    progress_bar,
    run,
)
from dca_export.cli._runtime import add_model_arguments, opened
from dca_export.errors import InputError
from dca_runtime.options import ATTENTIONS

if TYPE_CHECKING:
    from dca_runtime import Model, Sampling
    from dca_runtime.generate import Generation

EXAMPLE = """
dca-run model.gguf -p "Once upon a time" -n 64
dca-run model.gguf --chat -f question.txt --temp 0
dca-run model.gguf --chat
"""

CHAT_CONTEXT = 8192  # tokens; a chat does not know how long it will be


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_parser(
        "dca-run",
        "Continues a prompt, answers it (--chat -p), or holds a chat (--chat on a terminal).",
        EXAMPLE,
    )
    add_model_arguments(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="what to continue, or with --chat to answer")
    prompt.add_argument("-f", "--file", metavar="FILE", help="read the prompt from FILE (-: standard input)")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--system", metavar="TEXT", help="the system message of a chat")
    parser.add_argument(
        "-n",
        "--tokens",
        type=count,
        default=256,
        metavar="N",
        help="tokens to generate at most (default: 256)",
    )
    parser.add_argument(
        "--context",
        type=positive_int,
        metavar="N",
        help=f"tokens to keep (default: what prompt and -n need; in a chat on a terminal {CHAT_CONTEXT})",
    )
    parser.add_argument(
        "--attention", choices=ATTENTIONS, default="auto", help="default: auto, the file's own"
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--temp", type=finite_float, default=0.7, help="0: always the likeliest (default: 0.7)"
    )
    sampling.add_argument("--top-k", type=count, default=0, help="default: 0, off")
    sampling.add_argument("--top-p", type=finite_float, default=1.0, help="default: 1, off")
    sampling.add_argument("--min-p", type=finite_float, default=0.05, help="default: 0.05")
    sampling.add_argument("--repeat-penalty", type=finite_float, default=1.0, help="default: 1, off")
    sampling.add_argument("--seed", type=count, help="repeats a text (default: a different one each time)")
    return run(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    from dca_runtime import Sampling

    if arguments.system is not None and not arguments.chat:
        raise InputError("--system needs --chat")
    prompt = _prompt(arguments)
    sampling = Sampling(
        temperature=arguments.temp,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repeat_penalty=arguments.repeat_penalty,
        seed=arguments.seed,
    )
    with opened(arguments) as model:
        if prompt is None:
            _chat(model, arguments, sampling)
        else:
            _generate(model, arguments, sampling, prompt)
    return EXIT_OK


def _prompt(arguments: argparse.Namespace) -> str | None:
    """The prompt, or None for a chat on the terminal."""
    if arguments.prompt is not None:
        return arguments.prompt
    if arguments.file is not None:
        try:
            return sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{arguments.file}: not UTF-8 text (byte {error.start})") from error
    if not arguments.chat:
        raise InputError("nothing to continue: give a prompt with -p or -f, or --chat")
    if not sys.stdin.isatty():
        raise InputError("a chat without -p or -f needs a terminal")
    return None


def _generate(model: "Model", arguments: argparse.Namespace, sampling: "Sampling", prompt: str) -> None:
    from dca_runtime.generate import Generation

    if arguments.chat:
        system = [{"role": "system", "content": arguments.system}] if arguments.system else []
        text = model.apply_chat_template([*system, {"role": "user", "content": prompt}])
        ids = model.tokenize(text, add_special=False)
    else:
        ids = model.tokenize(prompt)
    if not ids:
        raise InputError("the prompt is empty and this model's texts begin with no special token")
    with progress_bar("reading") as update:
        session = model.session(
            context=arguments.context or len(ids) + arguments.tokens,
            attention=arguments.attention,
            cache_type=arguments.cache_type,
            progress=update,
        )
        generation = Generation(session, model.tokenizer, ids, arguments.tokens, sampling)
        first = next(generation, "")
    _print_pieces(first, generation)
    _note_speed(generation)


def _chat(model: "Model", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    from dca_runtime.conversation import Conversation

    session = model.session(
        context=arguments.context or CHAT_CONTEXT,
        attention=arguments.attention,
        cache_type=arguments.cache_type,
    )
    conversation = Conversation(model, session, arguments.system)
    note("Ctrl-C stops an answer, Ctrl-D ends the chat.")
    while True:
        try:
            message = input("> ")
        except EOFError:
            print()
            return
        if not message.strip():
            continue
        reply = conversation.reply(message, arguments.tokens, sampling)
        try:
            _print_pieces("", reply)
        except KeyboardInterrupt:
            print()
        _note_speed(reply.generation)


def _print_pieces(first: str, rest: Iterator[str]) -> None:
    print(first, end="", flush=True)
    for piece in rest:
        print(piece, end="", flush=True)
    print()


def _note_speed(generation: "Generation") -> None:
    parts = []
    if generation.prompt_seconds:
        rate = generation.prompt_tokens / generation.prompt_seconds
        parts.append(f"prompt {generation.prompt_tokens} tokens, {rate:,.0f} tokens/s")
    if generation.decoded_tokens:
        rate = generation.decoded_tokens / generation.decode_seconds
        parts.append(f"generated {len(generation.ids)} tokens, {rate:,.1f} tokens/s")
    note(f"[{'; '.join(parts)}]")
