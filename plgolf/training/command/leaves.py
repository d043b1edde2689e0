"""Checks the values of a configuration before anything is built, so that an error names its whole path."""

import pydoc
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from jsonargparse import Namespace

from plgolf.arguments.wording import union_members
from plgolf.config import config_from_dict
from plgolf.errors import under


def check_leaves(settings: Namespace, classes: Mapping[str, type]) -> None:
    """Raises a UserError if a dataclass of a configuration refuses its values.

    Args:
        settings: parsed settings of a subcommand.
        classes: classes whose arguments they are, by group; classes that the settings name are followed.
    """
    for name, cls in classes.items():
        _check_arguments(settings[name], cls, name)


def _check_arguments(values: Namespace, cls: Any, where: str) -> None:
    hints: dict[str, Any] = {}
    with suppress(NameError, TypeError):  # A class from outside plgolf may have hints that cannot be read.
        hints = get_type_hints(cls.__init__)
    for name, hint in hints.items():
        value, path = values.get(name), f"{where}.{name}"
        kind = next((kind for kind in union_members(hint) if is_dataclass(kind)), None)
        if not isinstance(value, Namespace):
            continue
        if isinstance(kind, type):
            config_from_dict(kind, _without_classes(value.as_dict()), where=path)
        elif value.get("init_args"):
            _check_arguments(value.init_args, pydoc.locate(value.class_path), path)


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
