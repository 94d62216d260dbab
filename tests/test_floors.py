"""How the house stands: no circle anywhere, and nothing points up.

dca_export stands on dca_runtime, dca_runtime on the library, the library's backends on core.
"""

from pathlib import Path

import pytest
from import_graph import circle, includes, python_graph, python_imports

ROOT = Path(__file__).parents[1]
EXPORT, RUNTIME = ROOT / "dca_export", ROOT / "runtime" / "dca_runtime"

# What each room of dca_export may import, from the ground up: only rooms that stand above it in this list.
ROOMS = {
    "dca_runtime": [],
    "errors": [],
    "small_files": ["errors"],
    "config": ["errors", "small_files"],
    "scheme": ["errors"],
    "strict_json": [],
    "hub": ["errors"],
    "gguf": ["errors", "scheme"],
    "checkpoint": ["errors", "small_files", "config"],
    "tokenizer": ["errors", "small_files", "config", "dca_runtime"],
    "model": ["errors", "config", "checkpoint"],
    "documents": ["errors"],
    "adapters": ["errors", "small_files", "config", "gguf", "checkpoint", "model", "dca_runtime"],
    "importance": ["errors", "gguf", "dca_runtime"],
    "export": [
        "errors",
        "small_files",
        "config",
        "scheme",
        "gguf",
        "checkpoint",
        "tokenizer",
        "model",
        "adapters",
        "importance",
        "dca_runtime",
    ],
    # Says what the right answer is, so it shares no code with what runs, and of the export only the reading
    # of weights that were quantised elsewhere, for which transformers asks for each quantiser's library.
    "reference": ["errors", "scheme", "gguf", "checkpoint"],
    "parity": ["errors", "scheme", "gguf", "reference", "dca_runtime"],
    # Runs the reference as an engine of its experiments, for methods that the runtime has no kernels for.
    "evaluate": ["errors", "scheme", "strict_json", "reference", "dca_runtime"],
    "harness": ["errors", "dca_runtime"],
    "cli": [
        "errors",
        "strict_json",
        "hub",
        "gguf",
        "adapters",
        "importance",
        "documents",
        "export",
        "parity",
        "evaluate",
        "dca_runtime",
    ],
}

# What the sources of each folder of native/ may include, beside the public headers.
NATIVE = {"core": ["core"], "cpu": ["core", "cpu"], "cuda": ["core", "cuda"]}
PUBLIC_HEADERS = {"dca.h": [], "dca_text.h": ["dca.h"]}  # and what each includes

# The same for the rooms (and files of the hall) of each of them.
CORE = {
    "text": [],
    "error": ["text"],
    "machine": ["error"],
    "blocks": ["error", "machine"],
    "positions": ["error"],
    "gguf": ["error", "blocks"],
    "tokenizer": ["error", "text", "gguf"],
    "hparams": ["error", "gguf", "positions"],
    "weights": ["error", "gguf", "hparams"],
    "rope": ["error", "positions", "hparams", "weights"],
    "backend": ["error", "positions", "hparams", "weights", "rope"],
    "ranks": ["error", "hparams", "weights", "backend"],
    "model": ["error", "gguf", "hparams", "weights", "backend"],
    "engine": ["text", "error", "machine", "gguf", "positions", "rope", "backend", "model"],
    "api": ["error", "machine", "blocks", "gguf", "tokenizer", "backend", "model", "engine"],
}
CPU = {
    "buffer": [],
    "page_selection": [],
    "thread_pool": [],
    "packed": [],
    "kernels": ["packed"],
    "panel_shape": ["kernels"],
    "packed_weights": ["buffer", "packed"],
    "kv_cache": ["buffer", "kernels"],
    "executor": [
        "buffer",
        "page_selection",
        "thread_pool",
        "packed",
        "kernels",
        "panel_shape",
        "packed_weights",
        "kv_cache",
    ],
    "ranks": [],
    "backend": ["thread_pool", "kernels", "packed_weights", "kv_cache", "executor"],
}
CUDA = {
    "device": [],
    "refusals": [],
    "attention": ["device"],
    "sampling": ["device"],
    "weights": ["device"],
    "linear": ["device", "weights"],
    "sparse": ["device", "attention"],
    "experts": ["device", "weights", "linear"],
    "kv_cache": ["device", "attention", "sparse"],
    "ranks": ["device", "linear"],
    "step": ["device", "attention", "weights", "linear", "sparse", "experts", "kv_cache", "ranks"],
    "executor": ["device", "sampling", "weights", "linear", "step"],
    "backend": [
        "device",
        "refusals",
        "attention",
        "weights",
        "experts",
        "kv_cache",
        "ranks",
        "executor",
    ],
}
NATIVE_ROOMS = {"core": CORE, "cpu": CPU, "cuda": CUDA}


@pytest.fixture(scope="module")
def graph():
    return python_graph(EXPORT, RUNTIME)


def room(module: str) -> str:
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "dca_export" else package


@pytest.mark.parametrize("package", ["dca_export", "dca_runtime"])
def test_no_module_imports_itself_through_others(graph, package):
    inside = {name: targets for name, targets in graph.items() if name.partition(".")[0] == package}
    assert circle(inside) == []


def test_the_runtime_does_not_know_what_stands_on_it(graph):
    assert {
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if name.startswith("dca_runtime") and target.startswith("dca_export")
    } == set()


def test_the_rooms_are_listed_from_the_ground_up():
    names = list(ROOMS)
    for index, (name, allowed) in enumerate(ROOMS.items()):
        assert set(allowed) <= set(names[:index]), name


def test_every_room_imports_only_what_it_stands_on(graph):
    upward = {
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if room(name) not in ("dca_runtime", room(target)) and room(target) not in ROOMS.get(room(name), [])
    }
    assert upward == set()


def test_every_room_is_listed():
    folders = {path.parent.name for path in EXPORT.glob("*/*.py")}
    files = {path.stem for path in EXPORT.glob("*.py")} - {"__init__"}
    assert folders | files == set(ROOMS) - {"dca_runtime"}


def test_the_choices_and_the_errors_are_the_runtimes_ground(graph):
    assert graph["dca_runtime.options"] == graph["dca_runtime.errors"] == set()


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports them by their names alone."""
    paths = sorted((ROOT / "tests").rglob("test_*.py")) + sorted(
        (ROOT / "integrations" / "vllm" / "tests").glob("test_*.py")
    )
    names = [path.name for path in paths]
    assert {name for name in names if names.count(name) > 1} == set()


def native_sources(folder: str) -> list[Path]:
    paths = sorted(path for path in (ROOT / "native" / folder).rglob("*") if path.is_file())
    return [path for path in paths if path.name != "CMakeLists.txt"]


@pytest.mark.parametrize("folder", NATIVE)
def test_native_folders_include_only_what_they_stand_on(folder):
    sources = native_sources(folder)
    assert len(sources) > 10
    upward = {
        f"{path.relative_to(ROOT)} includes {header}"
        for path in sources
        for header in includes(path.read_text("utf-8"))
        if header not in PUBLIC_HEADERS and header.partition("/")[0] not in NATIVE[folder]
    }
    assert upward == set()


def native_room(path: str) -> str:
    """The room of a path below a folder of native/; a file of its hall is a room of its own."""
    return path.partition("/")[0].partition(".")[0]


@pytest.mark.parametrize("folder", NATIVE_ROOMS)
def test_native_rooms_are_listed_from_the_ground_up(folder):
    names = list(NATIVE_ROOMS[folder])
    for index, (name, allowed) in enumerate(NATIVE_ROOMS[folder].items()):
        assert set(allowed) <= set(names[:index]), name


@pytest.mark.parametrize("folder", NATIVE_ROOMS)
def test_every_native_room_includes_only_what_it_stands_on(folder):
    rooms, home = NATIVE_ROOMS[folder], ROOT / "native" / folder
    sources = [(str(path.relative_to(home)), path.read_text("utf-8")) for path in native_sources(folder)]
    assert {native_room(name) for name, _ in sources} == set(rooms)
    upward = {
        f"{name} includes {header}"
        for name, text in sources
        for header in includes(text)
        if header.startswith(f"{folder}/")
        and native_room(header.removeprefix(f"{folder}/"))
        not in (native_room(name), *rooms[native_room(name)])
    }
    assert upward == set()


@pytest.mark.parametrize("header", PUBLIC_HEADERS)
def test_the_public_headers_stand_alone(header):
    assert includes((ROOT / "native" / "include" / header).read_text("utf-8")) == PUBLIC_HEADERS[header]


# The reading itself.


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b", {"a.b"}),
        ("import a.b as c, os", {"a.b"}),
        ("from a import b", {"a.b"}),
        ("from a import name", {"a"}),
        ("from a.b import name", {"a.b"}),
        ("from . import b", {"a.b"}),
        ("from .b import name", {"a.b"}),
        ("def f():\n    from a import b", {"a.b"}),
        ("if TYPE_CHECKING:\n    from a.b import name", {"a.b"}),
        ("x = 'import a.b'", set()),
    ],
)
def test_every_form_of_import_is_seen(source, found):
    assert set(python_imports(source, "a", {"a", "a.b"})) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('#include "cuda/device.h"\n', ["cuda/device.h"]),
        ('  #  include "cuda/device.h"  // why', ["cuda/device.h"]),
        ('#include <vector>\n// #include "cuda/device.h"\n', []),
    ],
)
def test_every_form_of_include_is_seen(source, found):
    assert includes(source) == found


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
        ({"a": {"b"}, "b": {"outside"}}, []),
    ],
)
def test_circles_are_found(graph, found):
    assert circle(graph) == found
