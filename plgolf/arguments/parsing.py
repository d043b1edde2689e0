"""The parser of a command line: one-line errors, one line of help per key, its configuration printed."""

import argparse
import difflib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace

from plgolf.arguments.bounded_yaml import STDIN, OutOfBoundsError, check_text, read_settings
from plgolf.arguments.commented import to_commented_yaml
from plgolf.arguments.help import details, overview
from plgolf.arguments.mistakes import SettingsCheck
from plgolf.arguments.settings import CONFIG, ListingParser, Setting
from plgolf.arguments.suggestions import did_you_mean, missing_recipe
from plgolf.errors import UserError

_HELP = ("-h", "--help")
_PRINT_CONFIG = "--print_config"
_MAX_CHARACTERS = 300


class SettingsParser(ListingParser):
    """Parses the words of a command line and the recipes that they name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "add_help": False, "print_config": None})
        self.brief: dict[str, set[str]] = {}
        """The keys that the overview shows of groups with many keys, by prefix."""
        self._recipes: dict[str, dict[str, Any]] = {}

    def describe(self, texts: Mapping[str, str]) -> None:
        """Replaces the texts of keys and the titles of groups that come from a library."""
        for action in self._actions:
            action.help = texts.get(action.dest, action.help)
        for name, group in (self.groups or {}).items():
            group.title = texts.get(name, group.title)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return overview(self, self.brief)

    def parse(self, words: Sequence[str]) -> Namespace:
        """Parses the words of a command line, or prints what they ask for and ends the process.

        Returns:
            The settings; those of a subcommand below its name.

        Raises:
            UserError: a setting or a recipe is wrong; the message says which and why.
        """
        command, rest = self._command(list(words))
        command.print_help_if_asked(rest)
        printed = [word for word in rest if word.partition("=")[0] == _PRINT_CONFIG]
        for word in printed:
            if word not in (_PRINT_CONFIG, f"{_PRINT_CONFIG}=full") or not command.has_config:
                rule = "must be alone or with =full, in a command with recipes"
                raise UserError(f"{_PRINT_CONFIG} {rule}, got {word:.100}")
        rest = [word for word in rest if word not in printed]
        command.check(rest, [other for other in self.commands.values() if other is not command])
        parsed: Namespace = self.parse_args(rest if command is self else [words[0], *rest])
        if printed:
            settings = parsed if command is self else parsed[words[0]]
            sys.stdout.write(command.to_recipe(settings, full=printed[-1] != _PRINT_CONFIG))
            self.exit()
        return parsed

    def check(self, words: Sequence[str], siblings: Sequence[ListingParser]) -> None:
        """Raises a ``UserError`` if a word, or a recipe that one names, is wrong."""
        checks = SettingsCheck(self, siblings)
        for name, value in _flags(words, checks.known):
            try:
                check_text(value or "")
            except OutOfBoundsError as error:
                raise UserError(f"{name or value:.20}: {error}") from error
            if value is not None and name == CONFIG and self.has_config:
                self._check_recipe(value, checks)
            elif name:
                checks.flag(name, value)
            else:
                checks.word(value or "")
        checks.finish()

    def print_help_if_asked(self, words: Sequence[str]) -> None:
        """Prints the overview, or everything about a key, and ends the process."""
        for word, after in itertools.pairwise([*words, "-"]):
            flag, _, topic = word.partition("=")
            if flag in _HELP:
                topic = topic or ("" if after.startswith("-") else after)
                shown = self if not topic else self.commands.get(topic)
                sys.stdout.write(shown.format_help() if shown else details(self, topic))
                self.exit()

    def to_recipe(self, settings: Namespace, *, full: bool) -> str:
        """Returns settings as YAML: all of them, or those that differ from the defaults with comments."""
        text = str(self.dump(settings, skip_unset=False, skip_default=not full))
        return text if full else to_commented_yaml(yaml.safe_load(text) or {}, self)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        kept = self._recipes.get(os.fspath(path))
        if kept is None:
            parsed: Namespace = super().parse_path(path, *args, **kwargs)
        else:  # Quoted, so that no string is read as a number.
            parsed = self.parse_string(yaml.safe_dump(kept, default_style='"'), "", *args, **kwargs)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # The parser of a class that a setting names: the caller handles it.
            super().error(message, ex)
        raise UserError(f"{' '.join(message.split()):.{_MAX_CHARACTERS}}") from ex

    def _command(self, words: list[str]) -> "tuple[SettingsParser, list[str]]":
        if not self.commands or not words or words[0].startswith("-"):
            return self, words
        if words[0] not in self.commands:
            meant = did_you_mean(difflib.get_close_matches(words[0], self.commands, n=1))
            known = ", ".join(self.commands)
            raise UserError(f"{self.program} must be followed by one of {known}, got {words[0]:.100}{meant}")
        return self.commands[words[0]], words[1:]

    def _check_recipe(self, path: str, checks: SettingsCheck) -> None:
        if path != STDIN and not Path(path).exists():
            raise UserError(missing_recipe(path))
        loaded = read_settings(Path(path))
        kept = checks.file(loaded, "stdin" if path == STDIN else path)
        if kept != loaded or path == STDIN:
            self._recipes[path] = kept


def _flags(words: Sequence[str], known: Mapping[str, Setting]) -> Iterator[tuple[str, str | None]]:
    """Yields the names of flags without dashes, with their values; a word without a flag has no name."""
    given = list(words)
    while given:
        word = given.pop(0)
        flag, equals, value = word.partition("=")
        name = CONFIG if flag in ("-c", f"--{CONFIG}") else flag.removeprefix("--")
        setting = known.get(name.removesuffix("+"))
        if not word.startswith("--") and name != CONFIG:
            yield "", word
        elif equals:
            yield name, value
        elif setting and setting.num_words == 0:
            yield name, None
        elif given and not given[0].startswith("--"):
            yield name, given.pop(0)
            while setting and setting.num_words == "+" and given and not given[0].startswith("--"):
                yield name, given.pop(0)
        elif setting or name == CONFIG:
            raise UserError(f"{word} must have a value")
        else:
            yield name, None
