"""Reads who imports whom, without importing anything: Python's statements and C++'s #include lines."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """The package's modules by full name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def python_imports(source: str, importer: str, known: set[str]) -> Iterator[str]:
    """Modules of ``known`` that ``source`` names in any import: at the top, in a function, for types only.

    ``importer``: the package that relative imports count from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = importer.split(".")[: len(importer.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            # "from package import name": a module of that name, else something in the package itself.
            named = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names
            ]
        else:
            continue
        yield from (name for name in named if name in known)


def python_graph(*packages: Path) -> Graph:
    """Every module of the packages, and which of them it imports."""
    paths = {name: path for package in packages for name, path in modules(package).items()}
    return {
        name: set(python_imports(path.read_text("utf-8"), _package(name, path), set(paths))) - {name}
        for name, path in paths.items()
    }


def includes(source: str) -> list[str]:
    """What the ``#include "…"`` lines of a C++ source name."""
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', source, re.M)


def circle(graph: Graph) -> list[str]:
    """One circle in the graph, its first node again at the end; [] if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := walk(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def _package(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]
