"""What a parser takes, key by key: the one reading of it for help, comments, completion and suggestions."""

import argparse
import inspect
import pydoc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from plgolf.arguments.wording import flat, plain, shown, values_of

CONFIG = "config"
"""The option that names YAML files."""
_LINK = " --> "


_PLAIN_MODULES = ("builtins", "types", "typing", "datetime", "pathlib", "collections")
"""Whose classes are values and not parts of a run."""


@dataclass(frozen=True)
class Setting:
    """One key.

    Args:
        key: such as ``model.gpt.dim``; of a class's setting without ``init_args``, as a flag has it.
        hint: its type.
        default: what it is if nobody says; a class as its path.
        required: it must be given.
        positional: it is given without its name.
        switch: it takes no value.
        text: what it does, on one line.
    """

    key: str
    hint: Any
    default: Any
    required: bool
    positional: bool
    switch: bool
    text: str

    @property
    def choices(self) -> list[str]:
        """What it may be, as YAML, where that is a short list."""
        options = [] if self.switch else list(flat(self.hint))
        closed = all(get_origin(option) is Literal or option in (bool, NoneType) for option in options)
        return list(dict.fromkeys(values_of(self.hint))) if closed else []

    @property
    def words(self) -> list[str]:
        """The words that it may hold, in a list too."""
        return list(dict.fromkeys(values_of(self.hint)))

    @property
    def bases(self) -> list[type]:
        """The classes that it may name subclasses of."""
        return list(dict.fromkeys(_classes(self.hint)))

    @property
    def skipped(self) -> int:
        """How many leading parameters of a class that it names are not the user's."""
        for option in flat(self.hint):
            if get_origin(option) is Callable:
                return len(get_args(option)[0])
        return 0

    @property
    def class_settings(self) -> "list[Group]":
        """The settings of the class that is its default."""
        path = self.default.get("class_path") if isinstance(self.default, dict) else None
        named = pydoc.locate(path) if path else None
        return settings_of_class(named, self) if isinstance(named, type) else []


class Group(NamedTuple):
    """Settings that belong together.

    Args:
        prefix: what their keys begin with, such as ``model.gpt``; empty if they have nothing in common.
        title: what they are about.
        settings: in order.
    """

    prefix: str
    title: str
    settings: list[Setting]


def groups_of(parser: ArgumentParser) -> list[Group]:
    """Returns the settings of a parser without subcommands, in its own order."""
    groups = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _is_setting(action)]
        # While it parses, jsonargparse calls no action required.
        required: set[str] = getattr(parser, "required_keys", set())
        settings = [_setting(action, action.required or action.dest in required) for action in actions]
        if settings:
            prefix = settings[0].key.rpartition(".")[0]
            groups.append(Group(prefix, plain(group.title or ""), settings))
    return groups


def settings_of(parser: ArgumentParser) -> dict[str, Setting]:
    """Returns all settings by key, those of the classes that are defaults too."""
    found = {}
    for group in groups_of(parser):
        for setting in group.settings:
            found[setting.key] = setting
            for inner in setting.class_settings:
                found |= {each.key: each for each in inner.settings}
    return found


def links_of(parser: ArgumentParser) -> dict[str, str]:
    """Returns which setting gives another one its value, by the other one's key."""
    words = [action.option_strings[0] for action in parser._actions if action.option_strings]
    return {target: source for source, _, target in (word.partition(_LINK) for word in words) if target}


def settings_of_class(named: type, setting: Setting) -> list[Group]:
    """Returns what a class takes that a setting names, with the setting's key before each name."""
    parser = ArgumentParser()
    skip: set[str | int] = {setting.skipped} if setting.skipped else set()
    parser.add_class_arguments(named, setting.key, skip=skip, instantiate=False, fail_untyped=False)
    return groups_of(parser)


def known_classes(setting: Setting) -> dict[str, type]:
    """Returns the classes that a setting may name by their short names, this package's first."""
    found: dict[str, type] = {}
    for base in setting.bases:
        for named in _subclasses(base):
            if named is not base and not (named.__name__.startswith("_") or inspect.isabstract(named)):
                found.setdefault(named.__name__, named)
    return dict(sorted(found.items(), key=lambda item: not item[1].__module__.startswith("plgolf.")))


def bracketed(setting: Setting) -> str:
    """Returns a setting's default in brackets."""
    default = "required" if setting.required else shown(setting.default)
    return default if default.startswith("[") else f"[{default}]"


def _classes(hint: Any) -> Iterator[type]:
    for option in flat(hint):
        if get_origin(option) is Callable:
            yield from _classes(get_args(option)[-1])
        elif get_origin(option) in (list, set, Iterable):
            yield from _classes(get_args(option)[0])
        elif inspect.isclass(option) and option.__module__.split(".")[0] not in _PLAIN_MODULES:
            yield option


def _is_setting(action: argparse.Action) -> bool:
    special = action.dest == CONFIG or isinstance(action.choices, dict)
    return action.default is not argparse.SUPPRESS and action.help is not argparse.SUPPRESS and not special


def _setting(action: argparse.Action, required: bool) -> Setting:
    default = action.default.as_dict() if isinstance(action.default, Namespace) else action.default
    return Setting(
        key=action.dest,
        hint=getattr(action, "_typehint", action.type or str),
        default=default,
        required=(required or not action.option_strings) and action.default is None,
        positional=not action.option_strings,
        switch=action.nargs == 0,
        text=plain(action.help or ""),
    )


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    for named in base.__subclasses__():
        yield from _subclasses(named)
