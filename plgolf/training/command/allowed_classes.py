"""Checks the classes that a recipe names."""

import inspect
import pydoc
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from torch.optim import Optimizer

from plgolf.errors import UserError

_OPTIMIZER = "model.optimizer"


def check_allowed_classes(settings: Namespace) -> None:
    """Refuses functions, before anything is built.

    Where the type of a setting is a class, jsonargparse requires a subclass. Where it is a callable, such as
    the optimizer, it would accept and call any function, including ``os.system``.

    Raises:
        UserError: a setting names a function, or the optimizer is not an optimizer class.
    """
    for key, value in _walk(settings, ""):
        if isinstance(value, Mapping | Namespace) and "class_path" in value:
            named, path = pydoc.locate(str(value["class_path"])), str(value["class_path"])
        elif inspect.isroutine(value):
            named, path = value, value.__qualname__
        else:
            continue
        if key == _OPTIMIZER and not (isinstance(named, type) and issubclass(named, Optimizer)):
            raise UserError(f"{key} must be a subclass of torch.optim.Optimizer, got {path:.100}")
        if not isinstance(named, type):
            raise UserError(f"{key} must name a class, got {path:.100}")


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _walk(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _walk(child, f"{key}.{index}")
