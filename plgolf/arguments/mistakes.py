"""Checks recipes and flags before they are parsed: one line per mistake, and what was probably meant."""

import difflib
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plgolf.arguments.bounded_yaml import load_text, read_settings
from plgolf.arguments.settings import ListingParser, Setting
from plgolf.arguments.suggestions import did_you_mean, nearest
from plgolf.arguments.wording import (
    allowed_words,
    describe_type,
    fits,
    format_value,
    is_function,
    union_members,
)
from plgolf.errors import UserError

_MAX_CLASSES = 8
_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


class SettingsCheck:
    """Checks the settings of one command line in the order in which they are given.

    Every method raises a ``UserError`` if something is wrong. ``siblings`` are the parsers of the other
    commands, whose settings a recipe may have as well.
    """

    def __init__(self, parser: ListingParser, siblings: Sequence[ListingParser] = ()) -> None:
        self.parser = parser
        self.siblings = siblings
        self.known = parser.settings
        self._groups = {key[:end] for key in self.known for end in range(len(key)) if key[end] == "."}
        self._positional = [key for key, setting in self.known.items() if setting.positional]
        self._given: set[str] = set()
        self._classes: dict[str, type] = {}
        self._folder = Path()

    def file(self, loaded: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Checks a recipe; returns its settings and those of files that it names, for this command."""
        self._folder = Path(where).parent
        try:
            kept = self._mapping(loaded, "")
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        self._folder = Path()
        return kept

    def flag(self, word: str, text: str | None) -> None:
        """Checks a flag without its dashes; its value is ``None`` for a switch."""
        key = word.removesuffix("+")
        above = [name for name in self.known if key.startswith(f"{name}.") and self.known[name].bases]
        if key in self.known:
            self._given.add(key)
            if text is not None:
                self._value(self.known[key], text)
        elif key in self._groups:
            self._group(key, load_text(text))
        elif above:
            setting = self.known[max(above, key=len)]
            self._argument(setting, key.removeprefix(f"{setting.key}."), text)
        else:
            raise UserError(self._unknown(key, as_flag=True))

    def word(self, text: str) -> None:
        """Checks a word without a flag."""
        if not self._positional:
            if text.endswith((".yaml", ".yml")):
                raise UserError(f"{text} must follow -c (did you mean -c {text}?)")
            raise UserError(f"{self.parser.program} takes settings as --KEY=VALUE, got {text:.100}")
        self._given.add(next((key for key in self._positional if key not in self._given), ""))

    def finish(self) -> None:
        """Checks that everything required was given."""
        inner = [self.known[key].settings_of_class(named) for key, named in self._classes.items()]
        for setting in (each for settings in [self.known, *inner] for each in settings.values()):
            if setting.required and setting.key not in self._given:
                raise UserError(f"{setting.key} must be given{setting.owner and f' for {setting.owner}'}")

    def _mapping(self, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        kept = {}
        for name, value in values.items():
            key = f"{prefix}{str(name).removesuffix('+')}"
            if key in self.known:
                self._given.add(key)
                self._value(self.known[key], value)
                kept[name] = value
            elif key in self._groups:
                kept[name] = self._group(key, value)
            elif not any(key in sibling.settings for sibling in self.siblings):
                while isinstance(value, Mapping) and len(value) == 1:  # The deepest name says most.
                    (name, value), *_ = value.items()  # noqa: PLW2901
                    key = f"{key}.{name}"
                raise UserError(self._unknown(key))
        return kept

    def _group(self, key: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return self._mapping(value, f"{key}.")
        if isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            return self._mapping(read_settings(self._folder / value), f"{key}.")
        raise UserError(f"{key} must hold settings by name, got {_short(value)}")

    def _value(self, setting: Setting, value: Any) -> None:
        if setting.bases:
            if isinstance(value, str) and value[:1] in ("{", "["):
                value = load_text(value)
            for item in value if isinstance(value, list) else [value]:
                self._class_value(setting, item)
        elif setting.num_words != "+":  # Each word is an item of a list.
            _check_type(setting, value)

    def _class_value(self, setting: Setting, value: Any) -> None:
        path: Any = value
        arguments: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            path = value.get("class_path")
            arguments = {} if set(value) & _CLASS_KEYS else value
            for part in ("init_args", "dict_kwargs"):
                inner = {} if value.get(part) is None else value[part]
                if not isinstance(inner, Mapping):
                    raise UserError(f"{setting.key}.{part} must hold settings by name, got {_short(inner)}")
                arguments = {**arguments, **inner}
        elif not isinstance(load_text(value), str):  # For example null.
            _check_type(setting, value)
            path = None
        elif str in union_members(setting.hint):
            path = None
        if path is not None:
            named = _find_class(str(path), setting)
            self._classes[setting.key] = named
            for argument in setting.settings_of_class(named).values():
                if argument.required and is_function(argument.hint):
                    raise UserError(_wrong_value(argument, ""))
        for name, argument in arguments.items():
            self._argument(setting, str(name), argument)

    def _argument(self, setting: Setting, name: str, value: Any) -> None:
        """Checks an argument of the class that a setting names so far."""
        name = name.removeprefix("init_args.").removesuffix("+")
        if name in ("class_path", "init_args"):
            self._class_value(setting, {name: load_text(value)})
        named = self._classes.get(setting.key) or setting.default_class
        if named is None or name.partition(".")[0] in _CLASS_KEYS:
            return
        key, known = f"{setting.key}.{name}", setting.settings_of_class(named)
        self._given.add(key)
        if key in known:
            if not known[key].bases:
                _check_type(known[key], value)
        elif any(other.startswith(f"{key}.") for other in known):
            loaded = load_text(value)
            for inner, held in loaded.items() if isinstance(loaded, Mapping) else ():
                self._argument(setting, f"{name}.{inner}", held)
        elif not any(key.startswith(f"{other}.") for other in known):
            meant = did_you_mean(nearest(key, known))
            raise UserError(f"{named.__name__} has no setting {key:.100}{meant}")

    def _unknown(self, key: str, *, as_flag: bool = False) -> str:
        if key in self.parser.links:
            return f"{key} must be given as {self.parser.links[key]}"
        for sibling in self.siblings:
            if key in sibling.settings:
                return f"{self.parser.program} has no setting {key}, only {sibling.program} has it"
        near = nearest(key, self.parser.all_settings)
        program, meant = self.parser.program, did_you_mean(f"--{name}" if as_flag else name for name in near)
        return f"{program} has no setting {key:.100}{meant or f'; {program} --help lists all settings'}"


def _find_class(path: str, setting: Setting) -> type:
    """Returns the class of a short or dotted name."""
    module, _, name = path.rpartition(".")
    place, problem, named = None, "", setting.known_classes.get(name)
    if module:
        try:
            place = importlib.import_module(module)
            problem = "" if hasattr(place, name) else f": {module} has no {name}"
        except Exception:  # A module may raise anything when it is imported.
            problem = f": there is no module {module}"
        named = getattr(place, name, None)
    if isinstance(named, type) and issubclass(named, tuple(setting.bases)):
        return named
    near = difflib.get_close_matches(name, setting.known_classes, n=1, cutoff=0.75)
    if near and getattr(place, near[0], None) is setting.known_classes[near[0]]:
        near = [f"{module}.{near[0]}"]
    meant = did_you_mean(near) or f" (known: {', '.join(list(setting.known_classes)[:_MAX_CLASSES])})"
    kinds = " or ".join(f"a subclass of {base.__name__}" for base in setting.bases)
    raise UserError(f"{setting.key} must name {kinds}, got {path:.100}{problem}{meant}")


def _check_type(setting: Setting, value: Any) -> None:
    if (value is not None and is_function(setting.hint)) or not fits(value, setting.hint):
        raise UserError(_wrong_value(setting, value))


def _wrong_value(setting: Setting, value: Any) -> str:
    if is_function(setting.hint):
        owner = f" of {setting.owner}" if setting.owner else ""
        return f"{setting.key}{owner} must be a function, which can be set in Python only"
    line = f"{setting.key} must be {describe_type(setting.hint)}"
    if not setting.choices and setting.default is not None and not isinstance(setting.default, dict):
        line += f", such as {format_value(setting.default)}"
    words = list(allowed_words(setting.hint))
    wrong = [word for word in re.findall(r"[\w-]+", format_value(value)) if word not in words]
    near = difflib.get_close_matches(wrong[0], words, n=1, cutoff=0.5) if wrong else []
    return f"{line}, got {_short(value)}{did_you_mean(near)}"


def _short(value: Any) -> str:
    return f"{format_value(value):.100}"
