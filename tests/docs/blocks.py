"""The code blocks of the documentation. Run as a program, lists those that no test runs, and why."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "integrations/*/*.md")
    for path in ROOT.glob(pattern)
)
RUN = ("python", "sh")  # languages of blocks that are run
PROGRAMS = (
    "dca-",
    "pip ",
    "python ",
    "make ",
    "curl ",
    "vllm ",
    "$ ",
)  # what a block of commands begins with
_REASON = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of the fence, counted from 1
    language: str
    text: str
    reason: str | None  # why nothing runs it

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced blocks of a page; a comment `<!-- not run: reason -->` may stand right above one."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for index, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = index
            continue
        above = next((text for text in reversed(lines[:opened]) if text.strip()), "")
        reason = _REASON.fullmatch(above.strip())
        text = "\n".join(lines[opened + 1 : index])
        yield Block(page, opened + 1, lines[opened][3:].strip(), text, reason[1] if reason else None)
        opened = None


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


def command_lines(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; lines joined by a backslash and by && taken apart,
    where their output goes left out."""
    joined = block.text.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    commands = []
    for line in words:
        start = 0
        for index, word in enumerate([*line, "&&"]):
            if word == "&&":
                commands.append(line[start:index])
                start = index + 1
    return [command[: command.index(">")] if ">" in command else command for command in commands if command]


if __name__ == "__main__":
    for block in all_blocks():
        if block.reason is not None:
            print(f"{block}: {block.reason}")
