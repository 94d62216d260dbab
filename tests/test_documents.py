"""The documents name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In a document, `path/from/the/root` in backticks; a shortened path is for people and is not checked.
PATHS = re.compile(r"`((?:dca_export|runtime|native|tests|docs|benchmarks|examples)/[\w./-]+)`")
LINKS = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/ask-a-book.md",
        "docs/c-api.md",
        "docs/results.md",
        "docs/reliability.md",
        "SECURITY.md",
        "docs/finetuning.md",
        "docs/judges.md",
        "docs/hub.md",
        "docs/models.md",
        "docs/tuning.md",
        "docs/sparse.md",
        "docs/cards.md",
    ],
)
def test_paths_and_links_lead_somewhere(document):
    file = ROOT / document
    text = file.read_text(encoding="utf-8")
    absent = {path for path in PATHS.findall(text) if not (ROOT / path).exists()}
    absent |= {link for link in LINKS.findall(text) if not (file.parent / link).exists()}
    assert absent == set()
