"""Lists the settings of a parser, for its help, comments, completion and error messages."""

import inspect
import pydoc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from plgolf.arguments.wording import allowed_words, class_bases, format_value, strip_markup, union_members
from plgolf.errors import UserError

CONFIG = "config"
"""Name of the option that takes YAML files."""
_HIDDEN = "==SUPPRESS=="


@dataclass(frozen=True)
class Setting:
    """One key.

    Args:
        key: such as ``model.gpt.dim``; for an argument of a class without ``init_args``, as flags have it.
        default: its default; a class as a mapping with ``class_path``.
        num_words: words that its flag takes: 0 for a switch, ``+`` for several, ``None`` for one.
        owner: the class that it is an argument of, if another setting names that class.
    """

    key: str
    hint: Any
    default: Any = None
    required: bool = False
    text: str = ""
    positional: bool = False
    num_words: int | str | None = None
    owner: str = ""

    @property
    def flag(self) -> str:
        """Its name on a command line."""
        return self.key.upper() if self.positional else f"--{self.key}"

    @property
    def bracketed_default(self) -> str:
        """Its default in brackets."""
        default = "required" if self.required else format_value(self.default)
        return default if default.startswith("[") else f"[{default}]"

    @property
    def choices(self) -> list[str]:
        """Its allowed values as YAML, if they are a short list."""
        options = [] if self.num_words == 0 else list(union_members(self.hint))
        closed = all(get_origin(option) is Literal or option in (bool, NoneType) for option in options)
        return list(dict.fromkeys(allowed_words(self.hint))) if options and closed else []

    @cached_property
    def bases(self) -> list[type]:
        """The classes of which it may name a subclass."""
        return class_bases(self.hint)

    @cached_property
    def known_classes(self) -> dict[str, type]:
        """The imported classes that it may name, by short name, those of plgolf first."""
        found: dict[str, type] = {}
        for named in (named for base in self.bases for named in _subclasses(base)):
            if not named.__name__.startswith("_") and not inspect.isabstract(named):
                found.setdefault(named.__name__, named)
        return dict(sorted(found.items(), key=lambda item: not item[1].__module__.startswith("plgolf.")))

    @property
    def default_class(self) -> type | None:
        """The class that is its default."""
        path = self.default.get("class_path", "") if isinstance(self.default, dict) else ""
        named = pydoc.locate(path)
        return named if isinstance(named, type) else None

    def groups_of_class(self, named: object) -> "list[Group]":
        """Returns the arguments of a class that it names, with its key before each name."""
        if not isinstance(named, type):
            return []
        made = (get_args(option)[0] for option in union_members(self.hint) if get_origin(option) is Callable)
        skip = {len(given) for given in made if given}  # The program gives a callable its first arguments.
        parser = ListingParser()
        name = named.__name__
        try:
            parser.add_class_arguments(named, self.key, skip=skip, instantiate=False, fail_untyped=False)
        except ValueError as error:
            message = f"{self.key} must be another class, got {name}, which only Python can make"
            raise UserError(message) from error
        groups = parser.setting_groups
        return [each._replace(settings=[replace(s, owner=name) for s in each.settings]) for each in groups]

    def settings_of_class(self, named: object) -> "dict[str, Setting]":
        """Returns the same arguments by key."""
        return {each.key: each for group in self.groups_of_class(named) for each in group.settings}


class Group(NamedTuple):
    """Settings with a common prefix, such as ``model.gpt``; those without a title are listed first."""

    prefix: str
    title: str
    settings: list[Setting]


class ListingParser(ArgumentParser):
    """Keeps what it was given, so that it can list its settings with their types."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.links: dict[str, str] = {}
        """The setting that gives another one its value, by the other one's key."""
        self.commands: dict[str, Any] = {}
        """The parsers of the subcommands."""
        self.argument_types: dict[str, Any] = {}
        self._owners: list[tuple[str, Any]] = []
        super().__init__(*args, **kwargs)

    @property
    def program(self) -> str:
        """The words that call the command."""
        return self.prog.replace(" [options]", "")

    @property
    def has_config(self) -> bool:
        """True if the command takes YAML files."""
        return f"--{CONFIG}" in self.argument_types

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "parser"):  # jsonargparse gives this method to its groups too.
            self.argument_types.update(dict.fromkeys(args, kwargs.get("type")))
        return super().add_argument(*args, **kwargs)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kw: Any) -> Any:
        self._owners.append((nested_key or "", theclass))
        return super().add_class_arguments(theclass, nested_key, *args, **kw)

    def add_method_arguments(self, theclass: Any, themethod: str, *args: Any, **kwargs: Any) -> Any:
        self._owners.append(("", getattr(theclass, themethod)))
        return super().add_method_arguments(theclass, themethod, *args, **kwargs)

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        action = super().add_subcommands(*args, **kwargs)
        self.commands = action.choices
        return action

    def link_arguments(self, source: Any, target: str, *args: Any, **kwargs: Any) -> None:
        self.links[target] = str(source)
        super().link_arguments(source, target, *args, **kwargs)

    @property
    def setting_groups(self) -> list[Group]:
        """The settings in order; argparse has no public list of arguments, so its own is read."""
        groups = []
        for group in self._action_groups:
            if settings := [self._setting(each) for each in group._group_actions if _is_setting(each)]:
                title = "" if group in (self._positionals, self._optionals) else group.title or ""
                groups.append(Group(settings[0].key.rpartition(".")[0], strip_markup(title), settings))
        return groups

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings by key."""
        return {setting.key: setting for group in self.setting_groups for setting in group.settings}

    @property
    def all_settings(self) -> dict[str, Setting]:
        """The settings by key, with those of the classes that are defaults."""
        found: dict[str, Setting] = {}
        for key, setting in self.settings.items():
            found |= {key: setting, **setting.settings_of_class(setting.default_class)}
        return found

    def _setting(self, action: Any) -> Setting:
        default = action.default.as_dict() if isinstance(action.default, Namespace) else action.default
        positional, hint = not action.option_strings, self._hint(action.dest)
        if hint is None and {f"--{action.dest}", action.dest} & set(self.argument_types):
            hint = str if default is None else type(default)
        elif hint is None:  # Passed on in **kwargs: jsonargparse knows the type.
            hint = Any
        required = (positional or action.required) and default is None
        if default is None and not required and isinstance(hint, type) and hint not in (str, Any):
            hint = hint | None
        text = strip_markup(action.help or "")
        return Setting(action.dest, hint, default, required, text, positional, action.nargs)

    def _hint(self, key: str) -> Any:
        hint = self.argument_types.get(f"--{key}") or self.argument_types.get(key)
        for prefix, owner in self._owners:
            if hint is None and f"{key}.".startswith(f"{prefix}." if prefix else ""):
                hint = _hint_at(owner, key.removeprefix(prefix).lstrip(".").split("."))
        return hint


def _hint_at(owner: Any, names: list[str]) -> Any:
    """Returns the type of a parameter, or of a field of a dataclass that is a parameter."""
    functions = [vars(each).get("__init__") for each in getattr(owner, "__mro__", ())] or [owner]
    hint = next((_hints(each)[names[0]] for each in functions if names[0] in _hints(each)), None)
    if len(names) == 1:
        return hint
    inner = [option for option in union_members(hint) if inspect.isclass(option)]
    return _hint_at(inner[0], names[1:]) if inner else None


@cache
def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function) if function else {}
    except (NameError, TypeError, AttributeError):  # Names that exist only for type checkers.
        return {}


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for named in base.__subclasses__():
        yield named
        yield from _subclasses(named)


def _is_setting(action: Any) -> bool:
    special = action.dest == CONFIG or isinstance(action.choices, dict)
    return _HIDDEN not in (action.default, action.help) and not special
