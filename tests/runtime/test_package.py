"""The package's face: its names, its version, and how little importing it loads."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import dca_export
import dca_runtime

PACKAGES = {package.__name__: Path(package.__file__).parent for package in (dca_export, dca_runtime)}


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after ``statement``."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import dca_runtime", "dir(__import__('dca_runtime'))", "from dca_runtime.options import ATTENTIONS"],
)
def test_importing_loads_neither_numpy_nor_the_binding(statement):
    assert loaded_by(statement) & {"numpy", "cffi", "tokenizers", "jinja2"} == set()


def test_dir_lists_the_public_names():
    assert {"Model", "Session", "Sampling", "Scheme", "DcaError", "__version__"} <= set(dir(dca_runtime))
    assert all(hasattr(dca_runtime, name) for name in dir(dca_runtime))


def test_a_name_that_is_not_there_says_so():
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        _ = dca_runtime.Modell


def test_type_checkers_read_the_names_that_programs_see():
    stub = ast.parse((PACKAGES["dca_runtime"] / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.asname: node.module for node in imports for alias in node.names}
    assert homes == {name: f"dca_runtime.{home}" for name, home in dca_runtime._HOMES.items()}


def test_the_library_is_of_the_packages_version():
    assert dca_runtime.__version__ == dca_runtime.library_version() == version("dca-export")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_marked_as_typed(package):
    assert (PACKAGES[package] / "py.typed").is_file()
