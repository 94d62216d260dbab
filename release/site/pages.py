"""The pages of the site beside docs/: those of the root folder, and one a module from its docstrings."""

import ast
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OF_ROOT = {  # where they lie -> the page
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "integrations/vllm/README.md": "vllm.md",
}
SOURCES = {"dca_runtime": ROOT / "runtime" / "dca_runtime", "dca_export": ROOT / "dca_export"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def modules(package: str) -> list[str]:
    """The dotted names of a package's modules that have a docstring, private ones left out."""
    folder = SOURCES[package]
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        private = any(part.startswith("_") for part in parts)
        if not private and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            found.append(".".join(parts))
    return found


def on_config(config: Any) -> Any:
    """The menu: guides in the order in which README names them, then the reference."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guides = dict.fromkeys(re.findall(r"\]\(docs/([\w-]+\.md)\)", readme))
    guides |= dict.fromkeys(path.name for path in sorted((ROOT / "docs").glob("*.md")))
    config["nav"] = [
        {"dca-export": "index.md"},
        {"Guides": [name for name in guides if name != "commands.md"]},
        {"Commands": "commands.md"},
        *({package: [{name: f"reference/{name}.md"} for name in modules(package)]} for package in SOURCES),
        {"The project": ["changelog.md", "contributing.md", "security.md", "vllm.md"]},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for source, page in OF_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for package in SOURCES:
        for name in modules(package):
            text = f"# `{name}`\n\n::: {name}\n"
            files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links between files of the repository become links of the site, or text where it has no such page."""
    homes = {page: source for source, page in OF_ROOT.items()}
    here = PurePosixPath(homes.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def replaced(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        in_repository = _normal(here.parent / path)
        uri = OF_ROOT.get(in_repository) or in_repository.removeprefix("docs/")
        if files.get_file_from_path(uri) is None:
            return text
        return f"{image}[{text}]({uri}{hash_}{anchor})"

    return _LINK.sub(replaced, markdown)


def _normal(path: PurePosixPath) -> str:
    """a/../b as b."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
