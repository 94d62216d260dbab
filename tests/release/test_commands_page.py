"""docs/commands.md is what the parsers say today."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    page = runpy.run_path(str(ROOT / "release" / "commands_page.py"))["page"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page, (
        "python release/commands_page.py docs/commands.md"
    )
