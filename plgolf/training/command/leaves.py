"""Checks the values of a configuration before anything is built, so that an error names its whole path."""

import pydoc
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from plgolf.arguments.wording import union_members
from plgolf.config import config_from_dict
from plgolf.errors import under
from plgolf.evaluate import Evaluator
from plgolf.header import ArtifactFormat
from plgolf.optim import Schedule

_SETTINGS = (ArtifactFormat, Evaluator, Schedule)
"""Bases of classes that a configuration names and whose objects are settings: they are made to check them."""


def check_leaves(settings: Namespace, classes: Mapping[str, type]) -> None:
    """Raises a UserError if a dataclass or another class of settings refuses its values.

    Args:
        settings: parsed settings of a subcommand.
        classes: classes whose arguments they are, by group; classes that the settings name are followed.
    """
    for name, cls in classes.items():
        if "class_path" in settings[name]:
            _built_class(settings[name], name)
        else:
            _built_arguments(settings[name], cls, name)


def _built_arguments(values: Namespace, cls: Any, where: str) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    with suppress(NameError, TypeError):  # A class from outside plgolf may have hints that cannot be read.
        hints = get_type_hints(cls.__init__)
    return {key: _built(item, hints.get(key), f"{where}.{key}") for key, item in vars(values).items()}


def _built(value: Any, hint: Any, where: str) -> Any:
    """Returns the object that a value stands for; the value itself if it is not one of settings."""
    members = list(union_members(hint))
    if isinstance(value, Namespace):
        kind = next((kind for kind in members if is_dataclass(kind)), None)
        if isinstance(kind, type):
            return config_from_dict(kind, _without_classes(value.as_dict()), where=where)
        return _built_class(value, where) if "class_path" in value else value
    item_hint = next((get_args(kind)[-1] for kind in members if get_args(kind)), None)
    if isinstance(value, list):
        return [_built(item, item_hint, f"{where}.{number}") for number, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _built(item, item_hint, f"{where}.{key}") for key, item in value.items()}
    return value


def _built_class(value: Namespace, where: str) -> Any:
    cls: Any = pydoc.locate(value.class_path)
    given = value.get("init_args")
    arguments = _built_arguments(given, cls, where) if given else {}
    if not (isinstance(cls, type) and issubclass(cls, _SETTINGS)):
        return value
    with under(where):
        return cls(**arguments)


def _without_classes(value: Any) -> Any:
    """Replaces the classes that jsonargparse names where a dataclass has a base class by their settings."""
    if not isinstance(value, dict):
        return value
    value = value["init_args"] if value.keys() == {"class_path", "init_args"} else value
    return {name: _without_classes(item) for name, item in value.items()}


def mounted_at(path: str) -> Callable[..., Any]:
    """Returns an instantiator for jsonargparse that puts a path before the fields that errors name."""

    def instantiate(cls: type, *args: Any, **kwargs: Any) -> Any:
        with under(path):
            return cls(*args, **kwargs)

    return instantiate
