"""Lets `lm_eval run --model dca` find the model that this package's entry points name.

The harness (0.4.13) knows how to load a model from an entry point and looks for none. So when it fills its
table of models, the entry points of the group `lm_eval.models` are added to it. A line in a .pth file of
site-packages imports this module when Python starts: one entry in sys.meta_path, and no other import.
"""

import sys

GROUP = "lm_eval.models"
_TABLE = "lm_eval.models"  # the module that fills the harness's table as it is imported


class _Finder:
    """Waits in sys.meta_path for the harness's table of models."""

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN201
        """The spec that others find for that module, with a loader that goes on with ``register``."""
        if name != _TABLE:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)  # others find it now; and once is enough
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):  # noqa: ANN001, ANN202
                execute(module)
                register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Adds the models of the entry points to the harness's table, those of its own names left out."""
    from importlib.metadata import entry_points

    from lm_eval.api.registry import model_registry

    for point in entry_points(group=GROUP):
        if point.name not in model_registry:
            model_registry.register(point.name, target=point)


def install() -> None:
    """Waits for the harness; once."""
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


install()
