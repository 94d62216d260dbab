"""Files that documentation names are there: a reader who looks for them finds them."""

import re
import subprocess

import pytest
from blocks import ROOT


def tracked() -> list[str]:
    """The repository's files; none without git or a repository, as in a source archive."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return listed.stdout.splitlines()


FILES = tracked()
PAGES = [
    path for path in FILES if path.endswith(".md") and path != "CHANGELOG.md"
]  # which tells of old names
SOURCE = r"[\w./-]+\.(?:py|cpp|h|cu|cuh)"
# Code in a sentence that is a path of ours: from a folder of the root, or with the ending of a source.
FOLDERS = "|".join(sorted({re.escape(path.partition("/")[0]) for path in FILES if "/" in path}))
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*|{SOURCE})`")
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)(?:#[^)]*)?\)")
OTHERS = {"llama.cpp", "convert_hf_to_gguf.py"}  # of other projects

pytestmark = pytest.mark.skipif(not FILES, reason="needs the repository")


def ends_of_paths() -> set[str]:
    """Every file and folder by any end of its path: `linear/matvec.cuh` is one of native/cuda."""
    whole = {path.rsplit("/", depth)[0] for path in FILES for depth in range(path.count("/") + 1)}
    return {"/".join(path.split("/")[start:]) for path in whole for start in range(path.count("/") + 1)}


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_sentences_are_there(page):
    known = ends_of_paths() | OTHERS
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    assert [path for path in PATH.findall(text) if path.rstrip("/") not in known] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text("utf-8")
    home = (ROOT / page).parent
    assert [path for path in LINK.findall(text) if not (home / path).exists()] == []


def test_a_file_that_is_not_there_is_seen():
    assert PATH.findall("`native/nowhere.cpp`, `nowhere.py` and `--option`") == [
        "native/nowhere.cpp",
        "nowhere.py",
    ]
    assert LINK.findall("[one](docs/nowhere.md#part), [two](https://example.org/x)") == ["docs/nowhere.md"]
