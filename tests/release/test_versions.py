"""One version, wherever it is written down."""

import runpy
from pathlib import Path

CHECK = runpy.run_path(str(Path(__file__).parents[2] / "release" / "check.py"))


def test_every_file_states_the_version_of_the_package():
    assert set(CHECK["stated_versions"]().values()) == {CHECK["version"]()}
