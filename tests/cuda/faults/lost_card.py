"""A process whose card is lost: prints what a model on it said, as JSON.

    python lost_card.py FILE DEVICE CARD now|soon

steps a session on DEVICE. An assertion that fails on CARD then ends whatever this process has there, between
two steps ("now") or, half a second later, during one ("soon"). Then it asks the other cards, which CUDA may
or may not let it use any more, and the CPU.
"""

import json
import sys
import threading
import time

import torch

from dca_runtime import DcaError, Model


def lose(card: int) -> None:
    values = torch.zeros(4, device=f"cuda:{card}")
    try:
        print(values[torch.tensor([9], device=f"cuda:{card}")], file=sys.stderr)
    except Exception as error:  # torch's type of it differs from version to version
        print(error, file=sys.stderr)


def steps(session, count: int) -> list[tuple[float, str]]:
    """Seconds and message of every step that failed."""
    failed = []
    for _ in range(count):
        start = time.perf_counter()
        try:
            session.eval([1])
        except DcaError as error:
            failed.append((time.perf_counter() - start, f"{error.status.name}: {error}"))
            if len(failed) == 3:
                break
    return failed


def answer(path: str, device: str) -> int | str:
    """How many logits a new model gives, or what it says instead."""
    try:
        with Model(path, device=device) as model, model.session(context=64) as session:
            return len(session.eval([1, 2, 3]))
    except DcaError as error:
        return f"{error.status.name}: {error}"


def main() -> None:
    path, device, card, when = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.zeros(1, device=f"cuda:{card}")
    others = [each for each in range(torch.cuda.device_count()) if each != card]
    before = {}
    for other in others:
        answer(path, f"cuda:{other}")
        before[other] = torch.cuda.mem_get_info(other)[0]

    with Model(path, device=device) as model, model.session(context=1 << 20) as session:
        assert not steps(session, 20)
        if when == "now":
            lose(card)
        else:
            threading.Timer(0.5, lose, [card]).start()
        failed = steps(session, 1 << 19)
        with_new_session = ""
        try:
            model.session(context=64).eval([1])
        except DcaError as error:
            with_new_session = str(error)

    answers = [answer(path, f"cuda:{other}") for other in others]
    lost_memory = [
        before[other] - torch.cuda.mem_get_info(other)[0]
        for other, found in zip(others, answers, strict=True)
        if isinstance(found, int)
    ]
    print(
        json.dumps(
            {
                "failed": failed,
                "new session": with_new_session,
                "answers": answers,
                "on the CPU": answer(path, "cpu"),
                "lost memory": lost_memory,
            }
        )
    )


if __name__ == "__main__":
    main()
